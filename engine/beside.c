/* See beside.h. Paths are put together without memory from the heap: a file is there or not, whatever else
 * there is. */
#include "engine/beside.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && !S_ISDIR(info.st_mode);
}

/* The first n bytes of begin, joiner and name; false where that is no file. */
static bool find(const char *begin, size_t n, const char *joiner, const char *name, char path[SP_PATH_BYTES])
{
    if (n >= SP_PATH_BYTES) return false;
    int size = snprintf(path, SP_PATH_BYTES, "%.*s%s%s", (int)n, begin, joiner, name);
    return size > 0 && size < SP_PATH_BYTES && is_file(path);
}

bool sp_beside_in(const char *folder, const char *name, char path[SP_PATH_BYTES])
{
    size_t n = strlen(folder);
    return find(folder, n, n && folder[n - 1] != '/' ? "/" : "", name, path);
}

bool sp_beside_model(const char *model_path, const char *name, char path[SP_PATH_BYTES])
{
    struct stat info;
    size_t n = strlen(model_path);
    if (stat(model_path, &info) == 0 && S_ISDIR(info.st_mode)) return sp_beside_in(model_path, name, path);
    size_t stem = n > 5 && strcmp(model_path + n - 5, ".gguf") == 0 ? n - 5 : n;
    if (find(model_path, stem, ".", name, path)) return true;
    const char *slash = strrchr(model_path, '/');
    return find(model_path, slash ? (size_t)(slash - model_path) + 1 : 0, "", name, path);
}
