/* See png.h. libpng reports errors by longjmp: between setjmp and its return nothing here owns memory. */
#include "engine/graph/png.h"

#include <assert.h>
#include <png.h>
#include <setjmp.h>
#include <string.h>

#define MAX_TEXTS 8

/* What a file is made of; lives in the caller of write_file, so that longjmp cannot lose it. */
typedef struct png_job {
    const uint8_t *pixels; /* (height, width * bytes) */
    uint32_t width, height, bytes;
    const sp_rgb *colors; /* (256), or NULL for RGB */
    const sp_png_text *texts;
    size_t n_texts;
    sp_buffer *out;
    png_structp png;
    png_infop info;
} png_job;

static void write_bytes(png_structp png, png_bytep bytes, size_t n)
{
    sp_buffer *out = png_get_io_ptr(png);
    if (!sp_buffer_append(out, bytes, n)) png_error(png, "no room");
}

static void flush_bytes(png_structp png)
{
    (void)png;
}

static void stay_silent(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void leave(png_structp png, png_const_charp message)
{
    (void)message;
    png_longjmp(png, 1);
}

static void set_palette(const png_job *job)
{
    png_color palette[256];
    png_byte clear = 0;
    for (size_t i = 0; i < 256; i++)
        palette[i] = (png_color){job->colors[i].r, job->colors[i].g, job->colors[i].b};
    png_set_PLTE(job->png, job->info, palette, 256);
    png_set_tRNS(job->png, job->info, &clear, 1, NULL);
}

static void set_texts(const png_job *job)
{
    png_text texts[MAX_TEXTS];
    memset(texts, 0, sizeof texts);
    assert(job->n_texts <= MAX_TEXTS);
    for (size_t i = 0; i < job->n_texts; i++)
        texts[i] = (png_text){.compression = PNG_ITXT_COMPRESSION_NONE,
                              .key = (png_charp)job->texts[i].key,
                              .text = (png_charp)job->texts[i].text,
                              .itxt_length = strlen(job->texts[i].text),
                              .lang = (png_charp) "",
                              .lang_key = (png_charp) ""};
    png_set_text(job->png, job->info, texts, (int)job->n_texts);
}

static void write_file(const png_job *job)
{
    int kind = job->colors ? PNG_COLOR_TYPE_PALETTE : PNG_COLOR_TYPE_RGB;
    png_set_write_fn(job->png, job->out, write_bytes, flush_bytes);
    png_set_IHDR(job->png, job->info, job->width, job->height, 8, kind, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (job->colors) set_palette(job);
    if (job->n_texts > 0) set_texts(job);
    png_write_info(job->png, job->info);
    for (uint32_t y = 0; y < job->height; y++)
        png_write_row(job->png, job->pixels + (size_t)y * job->width * job->bytes);
    png_write_end(job->png, NULL);
}

static sp_status run_job(png_job *job, sp_error *error)
{
    job->png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, leave, stay_silent);
    job->info = job->png ? png_create_info_struct(job->png) : NULL;
    volatile bool done = false;
    if (job->info && setjmp(png_jmpbuf(job->png)) == 0) {
        write_file(job);
        done = true;
    }
    png_destroy_write_struct(&job->png, &job->info);
    return done ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for a PNG file of this size");
}

sp_status sp_png_write_rgb(const uint8_t *pixels, uint32_t width, uint32_t height, const sp_png_text *texts,
                           size_t n_texts, sp_buffer *out, sp_error *error)
{
    png_job job = {.pixels = pixels,
                   .width = width,
                   .height = height,
                   .bytes = 3,
                   .texts = texts,
                   .n_texts = n_texts,
                   .out = out};
    return run_job(&job, error);
}

sp_status sp_png_write_indexed(const uint8_t *indices, uint32_t width, uint32_t height, const sp_rgb *colors,
                               sp_buffer *out, sp_error *error)
{
    png_job job = {
        .pixels = indices, .width = width, .height = height, .bytes = 1, .colors = colors, .out = out};
    return run_job(&job, error);
}
