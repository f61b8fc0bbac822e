/* Which model a command means: --model is a path or the name of a model in the user's cache. Tests:
 * tests/http/test_command.py */
#ifndef SPARSED_SERVER_MODEL_PATH_H
#define SPARSED_SERVER_MODEL_PATH_H

#include "server/options.h"

/* Sets options->model to a path. A path that exists is taken as it is. A name without a slash is looked for
 * in
 * ${XDG_CACHE_HOME:-~/.cache}/sparsed/models, as a folder NAME or a file NAME.gguf. NULL is models/austen
 * below the current folder, else share/sparsed/models/austen beside the program's bin folder. A name found
 * nowhere is left alone: opening it says so. SP_USAGE when there is none to fall back on. */
sp_status sp_model_path_find(sp_options *options, sp_error *error) SP_MUST_CHECK;

#endif
