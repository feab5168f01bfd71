/* A driver, cuBLAS and cuRAND that calculate nothing: "device" memory is this process's own, kernels do nothing, and FAKE_CUDA
 * says how the driver behaves. Compiled by the tests; together with runtime/kernels-ptx/emulator our own kernels calculate, and
 * memory that nobody gave ends the process. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { OK = 0, NO_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_READY = 600, ILLEGAL_ADDRESS = 700, UNKNOWN = 999 };

static int is(const char *what) {
    const char *said = getenv("FAKE_CUDA");
    return said && strcmp(said, what) == 0;
}

/* The emulator's, where it was compiled with this. */
__attribute__((weak)) const void *emulated_kernel(const char *name);
__attribute__((weak)) void emulated_launch(const void *kernel, const unsigned *grid, const unsigned *block, void **arguments);

enum { INVALID_VALUE = 1, NOT_FOUND = 500, PAGE = 4096, EDGE = 16 };

static int trimmed;
static uint64_t threshold;

/* A context, a stream and what is launched there are a device's. */
enum { DEVICES = 2 };
static int current, launched[DEVICES], done[DEVICES];
static void *handle(int device) { return (void *)(uintptr_t)(device + 1); }
static int device_of(void *handle) { return (int)(uintptr_t)handle - 1; }
struct event { int device, launched; };

int cuInit(unsigned flags) { return is("no_device") ? NO_DEVICE : is("broken") ? UNKNOWN : OK; }
int cuDriverGetVersion(int *version) { *version = is("old") ? 12020 : 13000; return OK; }
int cuDeviceGetCount(int *count) { *count = is("zero") ? 0 : is("both") ? 2 : 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < DEVICES ? OK : INVALID_DEVICE; }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Fake GPU"); return OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)8 << 30; return OK; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    /* 75 and 76 are the compute capability, 115 memory pools. */
    *value = which == 75 ? (is("small") ? 7 : 9) : which == 76 ? (is("small") ? 5 : 0) : which == 115 ? 1 : 16;
    return OK;
}
int cuGetErrorName(int error, const char **text) { *text = "FAKE"; return OK; }
int cuGetErrorString(int error, const char **text) {
    *text = error == INVALID_DEVICE ? "the fake has no such device" : "as the fake says";
    return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { *context = handle(device); return is("full") ? NO_MEMORY : OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
int cuCtxGetCurrent(void **context) { *context = handle(current); return OK; }
int cuCtxSetCurrent(void *context) { current = device_of(context); return OK; }
int cuCtxSynchronize(void) { return OK; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = (size_t)1 << 30; *total = (size_t)8 << 30; return OK; }

int cuStreamCreate(void **stream, unsigned flags) { *stream = handle(current); return OK; }
int cuStreamDestroy_v2(void *stream) { return OK; }
int cuStreamSynchronize(void *stream) { return OK; }
/* Whether as many kernels as that are done on a device. "busy": each question ends one, and another shell begins one. */
static int query(int device, int wanted) {
    static struct timespec first;
    struct timespec now;
    if ((is("lost") || is("both")) && wanted) return ILLEGAL_ADDRESS;
    if (is("busy")) {
        launched[device]++;
        return done[device]++ < wanted ? NOT_READY : OK;
    }
    if (!is("slow") || !wanted) return OK;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!first.tv_sec) first = now;
    return now.tv_sec - first.tv_sec > 600 ? OK : NOT_READY;
}
int cuStreamQuery(void *stream) { return query(device_of(stream), launched[device_of(stream)]); }
int cuEventCreate(void **event, unsigned flags) { *event = calloc(1, sizeof(struct event)); return OK; }
int cuEventRecord(struct event *event, void *stream) {
    event->device = device_of(stream);
    event->launched = launched[event->device];
    return is("lost") && event->launched ? ILLEGAL_ADDRESS : OK;
}
int cuEventQuery(struct event *event) { return query(event->device, event->launched); }
int cuEventDestroy_v2(void *event) { free(event); return OK; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return OK; }

int cuModuleLoadData(void **module, const void *image) {
    *module = (void *)4;
    return is("ptx") ? 222 : emulated_kernel || strstr(image, ".version") ? OK : 200;
}
int cuModuleUnload(void *module) { return OK; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = emulated_kernel ? (void *)emulated_kernel(name) : (void *)5;
    if (!*function) fprintf(stderr, "the emulator has no kernel %s\n", name);
    return *function ? OK : NOT_FOUND;
}
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned shared, void *stream,
                   void **arguments, void **extra) {
    launched[device_of(stream)]++;
    if (emulated_launch) emulated_launch(f, (unsigned[]){a, b, c}, (unsigned[]){d, e, g}, arguments);
    return OK;
}

int cuDeviceGetDefaultMemPool(void **pool, int device) { *pool = (void *)6; return OK; }
int cuMemPoolSetAttribute(void *pool, int which, void *value) { if (which == 4) threshold = *(uint64_t *)value; return OK; }
int cuMemPoolGetAttribute(void *pool, int which, void *value) { *(uint64_t *)value = threshold == UINT64_MAX ? 4096 : 0; return OK; }
int cuMemPoolTrimTo(void *pool, size_t keep) { trimmed = 1; return OK; }
/* Ends, but for less than EDGE bytes, where a page begins that nobody may touch; holds what is no number. Before it stand its
 * size and the size of the whole. */
int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    if (is("never") || (is("tight") && !trimmed)) return NO_MEMORY;
    size_t rounded = (bytes + EDGE - 1) / EDGE * EDGE, whole = (rounded + 3 * EDGE + 2 * PAGE) / PAGE * PAGE;
    char *all = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return NO_MEMORY;
    mprotect(all + whole - PAGE, PAGE, PROT_NONE);
    memset(all, 0xff, whole - PAGE);
    char *start = all + whole - PAGE - rounded;
    ((size_t *)start)[-1] = bytes;
    ((size_t *)start)[-2] = whole;
    *address = (uint64_t)start;
    return OK;
}
int cuMemFreeAsync(uint64_t address, void *stream) {
    char *start = (char *)address;
    size_t bytes = ((size_t *)start)[-1], whole = ((size_t *)start)[-2], rounded = (bytes + EDGE - 1) / EDGE * EDGE;
    for (size_t at = bytes; at < rounded; at++)
        if ((unsigned char)start[at] != 0xff) abort();
    for (size_t at = 1; at <= EDGE; at++)
        if ((unsigned char)start[-EDGE - (long)at] != 0xff) abort();
    munmap(start + rounded + PAGE - whole, whole);
    return OK;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) { memset((void *)to, value, bytes); return OK; }

/* With "fetches" a copy from page-locked memory is made as late as a GPU might make it, and one from other memory is refused. */
enum { LATE_MAX = 256, LOCKED_MAX = 256 };
static struct { char *to; const char *from; size_t bytes; } late[LATE_MAX];
static struct { char *start; size_t bytes; } locked[LOCKED_MAX];
static int late_count, locked_count;
static pthread_mutex_t only = PTHREAD_MUTEX_INITIALIZER;

static void fetch(void) {
    pthread_mutex_lock(&only);
    for (int at = 0; at < late_count; at++) memcpy(late[at].to, late[at].from, late[at].bytes);
    late_count = 0;
    pthread_mutex_unlock(&only);
}
int cuMemHostAlloc(void **start, size_t bytes, unsigned flags) {
    if (is("unlocked") || locked_count == LOCKED_MAX) return NO_MEMORY;
    pthread_mutex_lock(&only);
    locked[locked_count].start = *start = malloc(bytes ? bytes : 1);
    locked[locked_count++].bytes = bytes;
    pthread_mutex_unlock(&only);
    return OK;
}
int cuMemFreeHost(void *start) {
    fetch();
    for (int at = 0; at < locked_count; at++)
        if (locked[at].start == start) locked[at].bytes = 0;
    free(start);
    return OK;
}
static int is_locked(const char *from, size_t bytes) {
    for (int at = 0; at < locked_count; at++)
        if (from >= locked[at].start && from + bytes <= locked[at].start + locked[at].bytes) return 1;
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    if (!is("fetches")) return memcpy((void *)to, from, bytes), OK;
    if (!is_locked(from, bytes) || late_count == LATE_MAX) return INVALID_VALUE;
    pthread_mutex_lock(&only);
    late[late_count].to = (char *)to, late[late_count].from = from, late[late_count++].bytes = bytes;
    pthread_mutex_unlock(&only);
    return OK;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    fetch();
    memcpy(to, (void *)from, bytes);
    return OK;
}
int cuEventSynchronize(void *event) { fetch(); return OK; }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) { memcpy((void *)to, (void *)from, bytes); return OK; }

int cublasCreate_v2(void **handle) { *handle = (void *)7; return OK; }
int cublasDestroy_v2(void *handle) { return OK; }
int cublasSetStream_v2(void *handle, void *stream) { return OK; }
int cublasGetVersion_v2(void *handle, int *version) { *version = 130000; return OK; }

int curandCreateGenerator(void **generator, int kind) { *generator = (void *)8; return OK; }
int curandDestroyGenerator(void *generator) { return OK; }
int curandSetStream(void *generator, void *stream) { return OK; }
int curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed) { return OK; }
