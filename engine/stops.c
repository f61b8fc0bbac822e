/* See stops.h. */
#include "engine/stops.h"

#include <string.h>

/* back[i]: length of the longest proper border of text[0 .. i]. */
static void make_borders(sp_stop *stop)
{
    size_t length = 0;
    stop->back[0] = 0;
    for (size_t i = 1; i < stop->size; i++) {
        while (length > 0 && stop->text[i] != stop->text[length]) length = stop->back[length - 1];
        if (stop->text[i] == stop->text[length]) length++;
        stop->back[i] = (uint16_t)length;
    }
}

sp_status sp_stops_open(sp_stops *stops, const char *const *texts, const size_t *sizes, size_t n,
                        size_t max_piece, sp_error *error)
{
    memset(stops, 0, sizeof *stops);
    if (n > SP_MAX_STOPS)
        return sp_fail_param(error, SP_INVALID, "stop", "at most %d stop strings are allowed", SP_MAX_STOPS);
    for (size_t i = 0; i < n; i++)
        if (sizes[i] == 0 || sizes[i] > SP_MAX_STOP_BYTES || !sp_utf8_valid(texts[i], sizes[i]))
            return sp_fail_param(error, SP_INVALID, "stop", "a stop string must be 1 to %d bytes of UTF-8",
                                 SP_MAX_STOP_BYTES);

    bool enough = true;
    for (size_t i = 0; i < n && enough; i++) {
        sp_stop *stop = &stops->stops[stops->n++];
        stop->size = sizes[i];
        stop->text = sp_copy_text(texts[i], sizes[i]);
        stop->back = sp_alloc(sizes[i], sizeof *stop->back);
        enough = stop->text && stop->back;
        if (enough) make_borders(stop);
    }
    size_t room = max_piece + (n > 0 ? SP_MAX_STOP_BYTES : 0);
    sp_buffer_init(&stops->held, room);
    static const char zeros[256];
    for (size_t done = 0; enough && done < room;
         done += sizeof zeros) /* all memory now, none while decoding */
        enough =
            sp_buffer_append(&stops->held, zeros, room - done < sizeof zeros ? room - done : sizeof zeros);
    sp_buffer_clear(&stops->held);
    if (enough) return SP_OK;
    sp_stops_close(stops);
    return sp_fail(error, SP_NO_MEMORY, "no memory for the stop strings");
}

void sp_stops_close(sp_stops *stops)
{
    for (size_t i = 0; i < stops->n; i++) {
        sp_free(stops->stops[i].text);
        sp_free(stops->stops[i].back);
    }
    sp_buffer_fini(&stops->held);
    memset(stops, 0, sizeof *stops);
}

/* Feeds one byte; true when the string is complete with it. */
static bool step(sp_stop *stop, char byte)
{
    if (stop->state == stop->size) stop->state = stop->back[stop->size - 1];
    while (stop->state > 0 && stop->text[stop->state] != byte) stop->state = stop->back[stop->state - 1];
    if (stop->text[stop->state] == byte) stop->state++;
    return stop->state == stop->size;
}

bool sp_stops_scan(sp_stops *stops, size_t begin, size_t *release)
{
    for (size_t at = begin; at < stops->held.size; at++) {
        size_t found = 0;
        for (size_t i = 0; i < stops->n; i++)
            if (step(&stops->stops[i], stops->held.data[at]) && stops->stops[i].size > found)
                found = stops->stops[i].size;
        if (found > 0) {
            *release = at + 1 - found;
            return true;
        }
    }
    size_t hold = 0;
    for (size_t i = 0; i < stops->n; i++)
        if (stops->stops[i].state > hold) hold = stops->stops[i].state;
    *release = stops->held.size - hold;
    return false;
}

void sp_stops_drop(sp_stops *stops, size_t n)
{
    if (n == 0) return;
    memmove(stops->held.data, stops->held.data + n, stops->held.size - n);
    stops->held.size -= n;
}
