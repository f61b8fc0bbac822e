/* The text of one option's value: read by the option's type, held against its range, and put into sp_options;
 * so ranges and messages are written once, wherever the text comes from (options.c). Owner: strings are
 * copied into the arena of the options. Tests: tests/unit/server/test_options.c */
#ifndef SPARSED_SERVER_OPTION_VALUE_H
#define SPARSED_SERVER_OPTION_VALUE_H

#include "server/options.h"

/* Lists (SP_OPTION_ADAPTERS, SP_OPTION_FILES) get one more. label: what messages begin with: "--max-queue" or
 * "FILE: max_queue". SP_USAGE names the option; SP_NO_MEMORY. */
sp_status sp_option_set(sp_options *options, const sp_option *option, const char *label, const char *text,
                        sp_error *error) SP_MUST_CHECK;

#endif
