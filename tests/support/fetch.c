/* See fetch.h. */
#include "tests/support/fetch.h"

#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Runs the script, its standard output to fd. */
static bool start(const char *name, int fd, pid_t *child)
{
    char bash[] = "bash", script[] = SPARSED_FETCH, model[64];
    posix_spawn_file_actions_t actions;
    if (snprintf(model, sizeof model, "%s", name) >= (int)sizeof model) return false;
    char *const arguments[] = {bash, script, model, NULL};
    if (posix_spawn_file_actions_init(&actions) != 0) return false;
    bool started = posix_spawn_file_actions_adddup2(&actions, fd, STDOUT_FILENO) == 0 &&
                   posix_spawnp(child, bash, &actions, NULL, arguments, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    return started;
}

bool test_fetch_model(const char *name, char *path, size_t size)
{
    int ends[2], status = -1;
    pid_t child;
    if (pipe(ends) != 0) return false;
    bool started = start(name, ends[1], &child);
    close(ends[1]);
    FILE *output = started ? fdopen(ends[0], "r") : NULL;
    bool named = output && fgets(path, (int)size, output);
    if (output)
        fclose(output);
    else
        close(ends[0]);
    if (started && waitpid(child, &status, 0) != child) return false;
    if (named) path[strcspn(path, "\n")] = '\0';
    return named && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
