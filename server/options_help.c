/* What is made from the option table and the registry of backends for people and clients: the help of each
 * command and GET /v1/limits. Tests: tests/unit/server/test_options.c, tests/lint/test_docs.py */
#include "server/command.h"

#include <math.h>
#include <string.h>

#include "kernels/json.h"

#define INDENT 4
#define WIDTH 96

typedef struct command_text {
    unsigned command;
    const char *usage, *about, *examples;
} command_text;

static const command_text command_texts[] = {
    {SP_FOR_SERVE, "sparsed serve [--model DIR] [options]",
     "Loads a model and answers HTTP requests until SIGTERM or SIGINT. Standard output gets one line when "
     "the server is ready; the log goes to standard error. The reference of the routes is "
     "server/README.md.",
     "    sparsed serve\n"
     "    sparsed serve --model models/austen --port 0 --attention strided\n"
     "    sparsed serve --config deploy/sparsed.json --max-queue 16\n"
     "    sparsed serve --model SmolLM2-135M-Instruct --adapter entmax=models/smollm2-entmax\n"
     "    curl -N http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n"
     "         -d '{\"prompt\":\"It was a truth\",\"max_tokens\":40,\"stream\":true}'\n"},
    {SP_FOR_GENERATE, "sparsed generate --prompt TEXT|- | --chat [--model DIR] [options]",
     "Continues a text on the command line, without a server. The new text goes to standard output as it "
     "comes; a summary with speed, attention and edges goes to standard error.",
     "    sparsed generate --prompt 'Emma was' --max-tokens 60\n"
     "    sparsed generate --model smollm2 --chat\n"
     "    sparsed generate --prompt - --attention window < letter.txt\n"
     "    sparsed generate --prompt 'Emma' --attention "
     "'{\"backend\":\"window\",\"params\":{\"window\":65}}'\n"
     "    sparsed generate --prompt 'Emma was' --temperature 0 --json | python3 -m json.tool\n"},
    {SP_FOR_SCORE, "sparsed score --text FILE|- [--length T] [--model DIR] [options]",
     "Says how probable the model finds a text: perplexity a token and bits a byte, with a progress bar. "
     "The text is read in windows of T tokens, each of which predicts its next T tokens, so every token but "
     "the first is scored once. --json writes what POST /v1/score answers: every token with its logprob.",
     "    sparsed score --text models/austen/heldout.txt --length 1024\n"
     "    sparsed score --text letter.txt --attention window --min-context 64\n"
     "    sparsed score --text letter.txt --json | python3 -m json.tool\n"},
    {SP_FOR_GRAPH, "sparsed graph --text FILE|- --format F --out FILE|- [--layer L --head H] [options]",
     "Runs a text through the model once and writes what its heads read as a file: a picture, a table, a "
     "graph, one offline page, or what other viewers take. GET /v1/attention/captures/{id}/export is the "
     "same of a server.",
     "    sparsed graph --text letter.txt --format png --out heads.png\n"
     "    sparsed graph --text letter.txt --attention window --layer 2 --head 1 --view panels \\\n"
     "            --format svg --out head.svg\n"
     "    sparsed graph --text letter.txt --layer 2 --head 1 --format html --out head.html\n"
     "    sparsed graph --text letter.txt --layer 2 --head 1 --graph missed --format csv --out -\n"},
    {SP_FOR_INSPECT, "sparsed inspect [--model DIR|FILE] [options]",
     "Says what a model is: sizes, memory, tokenizer, the attention it was trained with, every tensor of its "
     "files; and whether it can be served. A model that is refused ends with exit code 65 and the reason, "
     "which names the file and the key or tensor.",
     "    sparsed inspect --model models/austen\n"
     "    sparsed inspect --model model.gguf --json\n"},
    {SP_FOR_TOKENIZE, "sparsed tokenize [--model DIR|FILE] [options] < texts.json",
     "Turns texts into token ids, or with --decode ids into texts; needs the tokenizer of a model, not its "
     "weights. Standard input holds a JSON array of texts; standard output gets an array of objects with "
     "ids, "
     "tokens (as the model's file spells them) and offsets (byte ranges of the text). Special tokens written "
     "in "
     "a text are recognised and nothing is added to it, unless an option says so.",
     "    echo '[\"Emma was\"]' | sparsed tokenize --model models/austen\n"
     "    echo '[[1810, 305]]' | sparsed tokenize --decode\n"},
    {SP_FOR_ATTEND, "sparsed attend --in FILE --out FILE|- [options]",
     "Runs one attention layer on given tensors: q [H,n,d], k [Hkv,m,d], v [Hkv,m,dv] in a safetensors "
     "file whose metadata names the attention. The file format is in engine/README.md, section \"attend\".",
     "    sparsed attend --in case.safetensors --out result.safetensors\n"
     "    sparsed attend --in case.safetensors --out - --metrics > result.safetensors\n"},
    {SP_FOR_SWEEP, "sparsed sweep --text FILE --out DIR [--length T] [--windows N] [--model DIR] [options]",
     "Measures what every attention keeps and costs on a text: sparsity, recall and mass of the gold graph, "
     "perplexity beside dense attention, seconds of reading and writing beside dense ones. Writes sweep.json "
     "(what auto reads, beside the model), sweep.csv, sweep.html and sweep.svg with the curves into DIR, "
     "after every "
     "point; a sweep that was stopped goes on where it was. What the model cannot do is skipped and named.",
     "    sparsed sweep --text models/austen/heldout.txt --length 1024 --out /tmp/sweep\n"
     "    sparsed sweep --text book.txt --out /tmp/sweep --backends window,sparsefinder --windows 8\n"
     "    sparsed sweep --text book.txt --out /tmp/sweep --grid 'window=33,65,129;dot-keep'\n"},
    {SP_FOR_FIT, "sparsed fit --text FILE... --out FIT [--model MODEL] [--length T] [options]",
     "Runs texts through a model with its own attention and learns, for every layer and head, small maps of "
     "queries and keys that predict which keys get weight: what attention sparsefinder reads. Writes a fit "
     "file; "
     "put it beside the weights as sparsefinder.safetensors. Stopped by Ctrl-C it leaves FIT.state, and the "
     "same "
     "command goes on from there. Ends with a table of what the fit finds in text held out: recall (share of "
     "edges) and mass (share of probability) by sparsity.",
     "    sparsed fit --text models/austen/train-sample.txt --length 1024 --out fit.safetensors\n"
     "    sparsed fit --model smollm2 --adapter entmax=models/smollm2-entmax --text *.txt --length 4096 \\\n"
     "         --tokens 50000 --out fit.safetensors\n"
     "    sparsed fit --measure fit.safetensors --text models/austen/heldout.txt --length 1024\n"},
    {SP_FOR_IMPORT_FIT, "sparsed import-fit --projections FILE [--centroids FILE] --out FILE [options]",
     "Turns projections and centroids that the published Sparsefinder code saved with torch.save into a fit "
     "file. The saves are read as data: nothing in them is executed, and anything but tensors, lists, "
     "dictionaries, numbers and texts is refused. --model holds them against a model and names it in the "
     "fit; without it only sparsed attend takes the fit.",
     "    sparsed import-fit --projections proj.pt --centroids dump_4r_16s_1n_shared.pickle \\\n"
     "            --layers 12 --heads 12 --out sparsefinder.safetensors\n"},
    {SP_FOR_HEALTH, "sparsed health [--host ADDRESS] [--port N]",
     "Asks a server on this machine whether it takes requests: ok and exit code 0, or the reason and 69. For "
     "containers, which then need neither a shell nor curl.",
     "    sparsed health\n"
     "    sparsed health --port 9000\n"},
    {SP_FOR_BENCH, "sparsed bench [--model DIR] [options]",
     "With --model: how fast the model reads prompts of 512, 2,048 and 8,192 tokens, and writes behind none, "
     "4,096 and 16,384 tokens and for 8 requests at once, through the engine as serving uses it; the "
     "share is that of the compute peak (reading) or of the memory bandwidth over weights and cached keys "
     "and "
     "values (writing). Without: measures this machine's peaks (float32, bf16, memory) and our kernels "
     "against them: best of five "
     "runs, peak and kernels in the same run. Lines for bf16 say n/a where the CPU has no bf16 dot "
     "product. SPARSED_CPU=reference, avx2, avx512 or avx512vnni in the environment forces lower instruction "
     "sets, "
     "for every command.",
     "    sparsed bench\n"
     "    sparsed bench --model models/austen\n"
     "    sparsed bench --threads 1 --json > bench.json\n"},
};

/* Appends text wrapped at WIDTH, every line indented. */
static void wrap(sp_buffer *out, const char *text, int indent)
{
    size_t column = 0;
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column && column + 1 + word > (size_t)(WIDTH - indent)) {
            sp_buffer_text(out, "\n");
            column = 0;
        }
        if (!column)
            sp_buffer_format(out, "%*s", indent, "");
        else
            sp_buffer_text(out, " ");
        sp_buffer_append(out, text, word);
        column += word + (column > 0);
        text += word;
        while (*text == ' ') text++;
    }
    sp_buffer_text(out, "\n");
}

static void size_text(sp_buffer *out, double bytes)
{
    static const char *const units[] = {"", "K", "M", "G"};
    size_t unit = 0;
    while (unit < 3 && bytes >= 1024 && fmod(bytes, 1024) == 0) {
        bytes /= 1024;
        unit++;
    }
    sp_buffer_format(out, "%.0f%s", bytes, units[unit]);
}

static void write_bounds(sp_buffer *out, double min, double max)
{
    if (max > 1e18)
        sp_buffer_text(out, min < 0 ? "any 64-bit integer" : "0 to 2^63 - 1");
    else
        sp_buffer_format(out, "%.10g to %.10g", min, max);
}

/* " (default 64; 1 to 65536)" */
static void write_range(sp_buffer *out, const sp_option *option)
{
    bool ranged =
        option->type == SP_OPTION_INT || option->type == SP_OPTION_NUMBER || option->type == SP_OPTION_BYTES;
    bool shown = option->fallback && option->type != SP_OPTION_FLAG;
    if (!ranged && !shown) return;
    sp_buffer_text(out, " (");
    if (shown) sp_buffer_format(out, "default %s%s", option->fallback, ranged ? "; " : "");
    if (option->type == SP_OPTION_BYTES) {
        size_text(out, option->min);
        sp_buffer_text(out, " to ");
        size_text(out, option->max);
    } else if (ranged)
        write_bounds(out, option->min, option->max);
    sp_buffer_text(out, ")");
}

static void write_option(sp_buffer *out, const sp_option *option)
{
    sp_buffer_format(out, "  --%s%s%s\n", option->name, option->value_name ? " " : "",
                     option->value_name ? option->value_name : "");
    sp_buffer text;
    sp_buffer_init(&text, 2048);
    sp_buffer_text(&text, option->help);
    write_range(&text, option);
    sp_buffer_append(&text, "", 1);
    wrap(out, text.failed ? option->help : text.data, 2 * INDENT);
    sp_buffer_fini(&text);
}

static void write_param(sp_buffer *out, const sp_param *param)
{
    sp_buffer text;
    sp_buffer_init(&text, 2048);
    sp_buffer_format(&text, "%s (default ", param->name);
    bool absent = isnan(param->fallback);
    if (param->type == SP_PARAM_NAME) {
        sp_buffer_text(&text, absent ? "none" : param->values[(size_t)param->fallback]);
        for (size_t i = 0; param->values[i]; i++)
            sp_buffer_format(&text, "%s%s", i ? " or " : "; ", param->values[i]);
    } else {
        if (absent)
            sp_buffer_text(&text, "none; ");
        else
            sp_buffer_format(&text, "%.10g; ", param->fallback);
        write_bounds(&text, param->min, param->max);
        if (param->odd_only) sp_buffer_text(&text, ", odd or 0");
    }
    sp_buffer_format(&text, "): %s", param->summary);
    sp_buffer_append(&text, "", 1);
    wrap(out, text.failed ? param->name : text.data, 2 * INDENT);
    sp_buffer_fini(&text);
}

static void write_backends(sp_buffer *out)
{
    sp_buffer_text(out, "\nAttention backends, in --attention and in the \"attention\" of a request:\n");
    for (size_t b = 0; sp_backends[b]; b++) {
        const sp_backend *backend = sp_backends[b];
        sp_buffer_format(out, "  %-10s %s\n", backend->name, backend->summary);
        for (size_t p = 0; p < backend->n_params; p++) write_param(out, &backend->params[p]);
    }
}

void sp_options_help(unsigned command, sp_buffer *out)
{
    for (size_t c = 0; c < sizeof command_texts / sizeof command_texts[0]; c++) {
        const command_text *text = &command_texts[c];
        if (text->command != command) continue;
        sp_buffer_format(out, "usage: %s\n\n", text->usage);
        wrap(out, text->about, 0);
        sp_buffer_text(
            out,
            "\nOptions, also as --name=value; the last one wins. BYTES take K, M, G (powers of 1024).\n");
        for (size_t i = 0; i < sp_option_count; i++)
            if (sp_option_table[i].flags & command) write_option(out, &sp_option_table[i]);
        if (command & (SP_FOR_SERVE | SP_FOR_GENERATE | SP_FOR_SCORE | SP_FOR_ATTEND)) write_backends(out);
        sp_buffer_format(out, "\nExamples:\n%s\n%s", text->examples, SP_EXIT_TEXT);
    }
}

static void write_value(const sp_options *options, const sp_option *option, sp_json_writer *out)
{
    const void *field = (const char *)options + option->offset;
    switch (option->type) {
    case SP_OPTION_ADAPTERS:
        sp_json_uint(out, ((const sp_adapter_list *)field)->n);
        return;
    case SP_OPTION_FILES:
        sp_json_uint(out, ((const sp_file_list *)field)->n);
        return;
    case SP_OPTION_TEXT:
        sp_json_cstring(out, *(const char *const *)field);
        return;
    case SP_OPTION_FLAG:
        sp_json_bool(out, *(const bool *)field);
        return;
    case SP_OPTION_NUMBER:
        sp_json_number(out, *(const double *)field);
        return;
    case SP_OPTION_INT:
    case SP_OPTION_BYTES:
        sp_json_int(out, *(const int64_t *)field);
        return;
    }
}

void sp_options_write_limits(const sp_options *options, size_t kv_bytes, sp_json_writer *out)
{
    for (size_t i = 0; i < sp_option_count; i++) {
        const sp_option *option = &sp_option_table[i];
        if (!(option->flags & SP_IS_LIMIT)) continue;
        char key[64];
        size_t n = strlen(option->name);
        if (n >= sizeof key) continue;
        for (size_t j = 0; j <= n; j++) key[j] = option->name[j] == '-' ? '_' : option->name[j];
        sp_json_key(out, key);
        if (option->offset != offsetof(sp_options, kv_bytes))
            write_value(options, option, out);
        else if (kv_bytes)
            sp_json_uint(out, kv_bytes);
        else
            sp_json_null(out);
    }
}
