/* Counts and fails allocations of the program it is preloaded into: the fault injector of checks/torture.py.
 *
 * Every malloc, calloc, realloc and aligned allocation of the process passes here, those of libc,
 * libmicrohttpd, cJSON, libpng and OpenBLAS too. The file named by SPARSED_TORTURE is mapped and shared with
 * the script: while `armed`, calls are counted, and call number `fail_at` returns NULL with ENOMEM, once;
 * where it was called from is kept. `live` is the number of blocks that are not freed. Before main() nothing
 * is counted: the loader is not ours. Works above a sanitizer's allocator, whose own checks then still hold.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FRAMES 14
#define EARLY_BYTES 65536

/* Shared with torture.py, which knows the offsets. */
typedef struct control {
    _Atomic uint64_t count, fail_at, fired, live, armed;
    uint64_t frames[FRAMES]; /* return addresses of the failed call */
    _Atomic uint64_t base;   /* load address of the program */
} control;

static control none, *shared = &none;
static int running; /* main() has begun */
/* backtrace and dlsym allocate. Addressed without __tls_get_addr, which a sanitizer replaces and can't serve
 * so early. */
static _Thread_local int inside __attribute__((tls_model("initial-exec")));

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void *(*next_aligned)(size_t, size_t);
static int (*next_posix)(void **, size_t, size_t);
static void (*next_free)(void *);

/* What dlsym itself asks for before it has found the real functions. */
static _Alignas(64) char early[EARLY_BYTES];
static size_t early_used;

static void *early_alloc(size_t size)
{
    size_t begin = (early_used + 63) & ~(size_t)63;
    if (begin + size > sizeof early) abort();
    early_used = begin + size;
    return early + begin;
}

static int is_early(const void *pointer)
{
    return (const char *)pointer >= early && (const char *)pointer < early + sizeof early;
}

static void find(void)
{
    if (next_malloc || inside) return;
    inside = 1;
    *(void **)&next_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&next_aligned = dlsym(RTLD_NEXT, "aligned_alloc");
    *(void **)&next_posix = dlsym(RTLD_NEXT, "posix_memalign");
    *(void **)&next_free = dlsym(RTLD_NEXT, "free");
    *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
    inside = 0;
}

/* The first object is the program. */
static int take_base(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size, (void)context;
    atomic_store(&shared->base, (uint64_t)info->dlpi_addr);
    return 1;
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("SPARSED_TORTURE");
    void *frames[FRAMES];
    find();
    inside = 1;
    (void)backtrace(frames, FRAMES); /* loads what unwinds, now and not at the failure */
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *map = fd >= 0 ? mmap(NULL, sizeof(control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (map != MAP_FAILED) shared = map;
    dl_iterate_phdr(take_base, NULL);
    unsetenv("LD_PRELOAD"); /* for children: none of them is meant */
    inside = 0;
}

/* True when this call is the one to fail. */
static int fails(void)
{
    if (!running || inside || !atomic_load_explicit(&shared->armed, memory_order_relaxed)) return 0;
    uint64_t number = atomic_fetch_add(&shared->count, 1) + 1;
    if (number != atomic_load(&shared->fail_at)) return 0;
    void *frames[FRAMES] = {0};
    inside = 1;
    int n = backtrace(frames, FRAMES);
    for (int i = 0; i < FRAMES; i++) shared->frames[i] = i < n ? (uint64_t)(uintptr_t)frames[i] : 0;
    inside = 0;
    atomic_store(&shared->fired, number);
    errno = ENOMEM;
    return 1;
}

static void *made(void *pointer)
{
    if (pointer) atomic_fetch_add_explicit(&shared->live, 1, memory_order_relaxed);
    return pointer;
}

void *malloc(size_t size)
{
    find();
    if (!next_malloc) return early_alloc(size);
    return fails() ? NULL : made(next_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    find();
    if (!next_malloc) return early_alloc(count * size); /* zero: never given back */
    return fails() ? NULL : made(next_calloc(count, size));
}

void *realloc(void *pointer, size_t size)
{
    find();
    if (!pointer) return malloc(size);
    if (is_early(pointer)) {
        void *copy = malloc(size);
        size_t behind = (size_t)(early + sizeof early - (char *)pointer);
        if (copy) memcpy(copy, pointer, size < behind ? size : behind);
        return copy;
    }
    if (size == 0) atomic_fetch_sub_explicit(&shared->live, 1, memory_order_relaxed);
    return size > 0 && fails() ? NULL : next_realloc(pointer, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    find();
    return fails() ? NULL : made(next_aligned(alignment, size));
}

void *memalign(size_t alignment, size_t size)
{
    return aligned_alloc(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size)
{
    find();
    if (fails()) return ENOMEM;
    int code = next_posix(pointer, alignment, size);
    if (code == 0) (void)made(*pointer);
    return code;
}

void free(void *pointer)
{
    if (!pointer || is_early(pointer)) return;
    find();
    atomic_fetch_sub_explicit(&shared->live, 1, memory_order_relaxed);
    next_free(pointer);
}

/* How a sanitizer asks where a new thread's stack is: it ends the program where it gets no memory for that.
 */
int pthread_getattr_np(pthread_t thread, pthread_attr_t *attributes)
{
    int (*next)(pthread_t, pthread_attr_t *), before = inside;
    inside = 1;
    *(void **)&next = dlsym(RTLD_NEXT, "pthread_getattr_np");
    int code = next(thread, attributes);
    inside = before;
    return code;
}

/* --- main() begins --- */
typedef int main_fn(int, char **, char **);
static main_fn *real_main;

static int begin_main(int argc, char **argv, char **environment)
{
    running = 1;
    return real_main(argc, argv, environment);
}

int __libc_start_main(main_fn *program, int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end)
{
    int (*next)(main_fn *, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
    *(void **)&next = dlsym(RTLD_NEXT, "__libc_start_main");
    real_main = program;
    return next(begin_main, argc, argv, init, fini, rtld_fini, stack_end);
}
