/* Files that lie beside a model, or in the folder of an adapter. Tests: tests/golden/test_auto.py,
 * tests/unit/engine/test_beside.c */
#ifndef SPARSED_ENGINE_BESIDE_H
#define SPARSED_ENGINE_BESIDE_H

#include <stdbool.h>

#define SP_PATH_BYTES 4096 /* what open() takes at most, its NUL included */

/* Puts the path of a file of this name beside a model into path: in its folder; of MODEL.gguf, MODEL.NAME or
 * else NAME in the same folder. False: there is none. */
bool sp_beside_model(const char *model_path, const char *name, char path[SP_PATH_BYTES]);
/* The same in a folder. */
bool sp_beside_in(const char *folder, const char *name, char path[SP_PATH_BYTES]);

#endif
