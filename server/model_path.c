/* See model_path.h. */
#include "server/model_path.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The bundled model: below the current folder, or installed beside the program. */
static sp_status find_bundled(sp_options *options, sp_error *error)
{
    static const char here[] = "models/austen", installed[] = "/../share/sparsed/models/austen";
    if (is_folder(here)) {
        options->model = here;
        return SP_OK;
    }
    char program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - sizeof installed);
    while (n > 0 && program[n - 1] != '/') n--;
    if (n > 1) {
        memcpy(program + n - 1, installed, sizeof installed);
        char *path = is_folder(program) ? realpath(program, NULL) : NULL;
        if (path) options->model = sp_arena_copy(&options->arena, path, strlen(path));
        free(path);
    }
    if (options->model) return SP_OK;
    return sp_fail_param(
        error, SP_USAGE, "model",
        "--model: which model? There is no models/austen here and none is installed beside the program");
}

/* Sets options->model if the cache holds that name. */
static void find_cached(sp_options *options)
{
    static const char *const endings[] = {"", ".gguf"};
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"), *name = options->model;
    bool absolute = cache && cache[0] == '/'; /* the XDG rules ignore a relative one */
    if (!absolute && (!home || home[0] != '/')) return;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        sp_buffer path;
        sp_buffer_init(&path, 4096);
        sp_buffer_format(&path, "%s%s/sparsed/models/%s%s", absolute ? cache : home,
                         absolute ? "" : "/.cache", name, endings[i]);
        const char *copy = path.failed ? NULL : sp_arena_copy(&options->arena, path.data, path.size);
        sp_buffer_fini(&path);
        if (!copy || access(copy, F_OK) != 0) continue;
        options->model = copy;
        return;
    }
}

sp_status sp_model_path_find(sp_options *options, sp_error *error)
{
    if (!options->model) return find_bundled(options, error);
    if (access(options->model, F_OK) != 0 && !strchr(options->model, '/') && options->model[0] != '.')
        find_cached(options);
    return SP_OK;
}
