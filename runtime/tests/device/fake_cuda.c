/* A driver, cuBLAS and cuRAND that calculate nothing: "device" memory is this process's own, kernels do nothing, and FAKE_CUDA
 * says how the driver behaves. Compiled by the tests. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, NO_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_READY = 600, ILLEGAL_ADDRESS = 700, UNKNOWN = 999 };

static int is(const char *what) {
    const char *said = getenv("FAKE_CUDA");
    return said && strcmp(said, what) == 0;
}

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
    return is("ptx") ? 222 : strstr(image, ".version") ? OK : 200;
}
int cuModuleUnload(void *module) { return OK; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)5; return OK; }
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned shared, void *stream,
                   void **arguments, void **extra) {
    launched[device_of(stream)]++;
    return OK;
}

int cuDeviceGetDefaultMemPool(void **pool, int device) { *pool = (void *)6; return OK; }
int cuMemPoolSetAttribute(void *pool, int which, void *value) { if (which == 4) threshold = *(uint64_t *)value; return OK; }
int cuMemPoolGetAttribute(void *pool, int which, void *value) { *(uint64_t *)value = threshold == UINT64_MAX ? 4096 : 0; return OK; }
int cuMemPoolTrimTo(void *pool, size_t keep) { trimmed = 1; return OK; }
int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    if (is("never") || (is("tight") && !trimmed)) return NO_MEMORY;
    *address = (uint64_t)malloc(bytes ? bytes : 1);
    return OK;
}
int cuMemFreeAsync(uint64_t address, void *stream) { free((void *)address); return OK; }
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) { memset((void *)to, value, bytes); return OK; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) { memcpy((void *)to, from, bytes); return OK; }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) { memcpy(to, (void *)from, bytes); return OK; }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) { memcpy((void *)to, (void *)from, bytes); return OK; }

int cublasCreate_v2(void **handle) { *handle = (void *)7; return OK; }
int cublasDestroy_v2(void *handle) { return OK; }
int cublasSetStream_v2(void *handle, void *stream) { return OK; }
int cublasGetVersion_v2(void *handle, int *version) { *version = 130000; return OK; }

int curandCreateGenerator(void **generator, int kind) { *generator = (void *)8; return OK; }
int curandDestroyGenerator(void *generator) { return OK; }
int curandSetStream(void *generator, void *stream) { return OK; }
int curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed) { return OK; }
