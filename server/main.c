/* The sparsed command: finds the command, parses its options, runs it, exits.
 *
 * Exit codes: 0 done, 64 wrong usage, 65 bad model or data, 66 not found, 69 cannot listen, 70 internal
 * error. Tests: tests/http/test_command.py, tests/unit/server/test_options.c */
#include <stdio.h>
#include <string.h>

#include "server/command.h"

static const struct command {
    const char *name;
    unsigned options;
    int (*run)(const sp_options *options);
    const char *summary;
} commands[] = {
    {"serve", SP_FOR_SERVE, sp_command_serve, "answer HTTP requests with a loaded model"},
    {"generate", SP_FOR_GENERATE, sp_command_generate, "continue a text on the command line"},
    {"score", SP_FOR_SCORE, sp_command_score, "say how probable a model finds a text"},
    {"graph", SP_FOR_GRAPH, sp_command_graph, "draw or export what the heads of a model read in a text"},
    {"inspect", SP_FOR_INSPECT, sp_command_inspect, "say what a model is and whether it can be served"},
    {"tokenize", SP_FOR_TOKENIZE, sp_command_tokenize, "turn texts into token ids and back"},
    {"attend", SP_FOR_ATTEND, sp_command_attend, "run one attention layer on your own tensors"},
    {"sweep", SP_FOR_SWEEP, sp_command_sweep, "measure what every attention keeps and costs"},
    {"fit", SP_FOR_FIT, sp_command_fit, "learn to predict a model's attention graphs, for sparsefinder"},
    {"import-fit", SP_FOR_IMPORT_FIT, sp_command_import_fit,
     "turn projections of the published code into a fit"},
    {"health", SP_FOR_HEALTH, sp_command_health, "ask a server whether it takes requests"},
    {"bench", SP_FOR_BENCH, sp_command_bench, "measure this machine and our kernels against it"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void write_overview(FILE *out)
{
    fputs("sparsed " SPARSED_VERSION ": language models with sparse attention, chosen request by request\n\n"
          "usage: sparsed COMMAND [options]\n\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\n  sparsed COMMAND --help   options with defaults and ranges, examples\n"
          "  sparsed --version        the version\n\n" SP_EXIT_TEXT,
          out);
}

static int write_help(const struct command *command)
{
    sp_buffer help;
    sp_buffer_init(&help, 1 << 16);
    sp_options_help(command->options, &help);
    bool written =
        !help.failed && fwrite(help.data, 1, help.size, stdout) == help.size && fflush(stdout) == 0;
    sp_buffer_fini(&help);
    return written ? SP_EXIT_OK : SP_EXIT_INTERNAL;
}

static bool is_help(const char *text)
{
    return strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0;
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static int run_command(const struct command *command, int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (is_help(argv[i])) return write_help(command);
    sp_options options;
    sp_error error = {0};
    int code;
    if (sp_options_parse(&options, command->options, argc, argv, &error))
        code = sp_command_fail(&error);
    else
        code = command->run(&options);
    sp_options_fini(&options);
    return code;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--version") == 0) {
        puts("sparsed " SPARSED_VERSION);
        return SP_EXIT_OK;
    }
    if (is_help(name)) {
        write_overview(stdout);
        return SP_EXIT_OK;
    }
    const struct command *command = find_command(name);
    if (command) return run_command(command, argc - 2, argv + 2);
    if (argc > 1) fprintf(stderr, "sparsed: there is no command \"%.80s\"\n\n", name);
    write_overview(stderr);
    return SP_EXIT_USAGE;
}
