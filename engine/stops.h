/* Stop strings in a stream of text.
 *
 * One Knuth-Morris-Pratt automaton a stop string: its state is the length of the longest end of the text that
 * begins the string, so the longest state is the text that must be held back, and the work is linear in the
 * text. The string that is complete first ends the text; of several that end at the same byte, the longest.
 * That does not depend on how the text was cut into tokens. Owner: the sequence. Tests:
 * tests/unit/engine/test_stream.c */
#ifndef SPARSED_ENGINE_STOPS_H
#define SPARSED_ENGINE_STOPS_H

#include "engine/engine.h"

typedef struct sp_stop {
    char *text;     /* (size) */
    uint16_t *back; /* (size) length of the longest proper border of text[0 .. i] */
    size_t size, state;
} sp_stop;

typedef struct sp_stops {
    sp_stop stops[SP_MAX_STOPS];
    size_t n;
    sp_buffer held; /* text not released yet */
} sp_stops;

/* Copies n strings of 1 .. SP_MAX_STOP_BYTES bytes; at most max_piece bytes are pushed at once. SP_INVALID
 * names "stop"; SP_NO_MEMORY. */
sp_status sp_stops_open(sp_stops *stops, const char *const *texts, const size_t *sizes, size_t n,
                        size_t max_piece, sp_error *error) SP_MUST_CHECK;
void sp_stops_close(sp_stops *stops);

/* Takes the text that was appended to stops->held since `begin`. Returns true when a stop string is complete.
 * *release is the number of bytes at the start of held that may go out now: up to the stop string, if there
 * is one. */
bool sp_stops_scan(sp_stops *stops, size_t begin, size_t *release);
/* Drops the first n bytes of held. */
void sp_stops_drop(sp_stops *stops, size_t n);

#endif
