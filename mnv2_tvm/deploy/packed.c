/* The TVM entries of the same library: `lib["mnv2_run"](input, output, workspace)` on tensors.
 *
 * It follows TVM's C ABI by header alone. Inside a TVM process a wrong argument raises; the symbol
 * that does so is weak, so that the library loads without TVM too.
 */
#include <stdint.h>
#include <tvm/ffi/c_api.h>

#include <mnv2.h>

__attribute__((weak)) void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

static int fail(const char *message) {
    if (TVMFFIErrorSetRaisedFromCStr) TVMFFIErrorSetRaisedFromCStr("ValueError", message);
    return -1;
}

/* An error of mnv2.h: `message`, unless the CPU is to blame. */
static int refuse(int error, const char *message) {
    if (error == MNV2_ERROR_CPU) message = "this CPU lacks a feature of the library's target";
    return fail(message);
}

/* The memory of a contiguous CPU tensor of at least `count` elements of a type, or NULL. */
static void *memory(const TVMFFIAny *argument, uint8_t code, uint8_t bits, uint64_t count) {
    const DLTensor *tensor;
    if (argument->type_index == kTVMFFIDLTensorPtr)
        tensor = argument->v_ptr;
    else if (argument->type_index == kTVMFFITensor)
        tensor = (const DLTensor *)((const char *)argument->v_obj + sizeof(TVMFFIObject));
    else
        return NULL;
    if (tensor->dtype.code != code || tensor->dtype.bits != bits || tensor->dtype.lanes != 1)
        return NULL;
    if (tensor->device.device_type != kDLCPU) return NULL;
    uint64_t size = 1;
    for (int axis = tensor->ndim - 1; axis >= 0; axis--) {
        if (tensor->strides && tensor->shape[axis] > 1 && (uint64_t)tensor->strides[axis] != size)
            return NULL;
        size *= (uint64_t)tensor->shape[axis];
    }
    return size < count ? NULL : (char *)tensor->data + tensor->byte_offset;
}

static void nothing(TVMFFIAny *result) {
    result->type_index = kTVMFFINone;
    result->zero_padding = 0;
    result->v_int64 = 0;
}

/* The tensors that every run takes, and for a profile the seconds of each layer. */
static int run(const TVMFFIAny *arguments, double *seconds) {
    const float *input = memory(&arguments[0], kDLFloat, 32, MNV2_INPUT_SIZE);
    float *output = memory(&arguments[1], kDLFloat, 32, MNV2_OUTPUT_SIZE);
    void *workspace = memory(&arguments[2], kDLUInt, 8, MNV2_WORKSPACE_BYTES);
    if (!input || !output || !workspace)
        return fail("mnv2_run takes float32 input and output and a uint8 workspace: contiguous "
                    "tensors on the CPU, at least as large as mnv2.h says");
    int error = seconds ? mnv2_profile(input, output, workspace, seconds)
                        : mnv2_run(input, output, workspace);
    return error ? refuse(error, "mnv2_run failed") : 0;
}

MNV2_API int __tvm_ffi_mnv2_run(void *self, const TVMFFIAny *arguments, int32_t count,
                                TVMFFIAny *result) {
    (void)self;
    nothing(result);
    if (count != 3) return fail("mnv2_run takes input, output and workspace");
    return run(arguments, NULL);
}

MNV2_API int __tvm_ffi_mnv2_profile(void *self, const TVMFFIAny *arguments, int32_t count,
                                    TVMFFIAny *result) {
    (void)self;
    nothing(result);
    double *seconds = count == 4 ? memory(&arguments[3], kDLFloat, 64, MNV2_LAYER_COUNT) : NULL;
    if (!seconds) return fail("mnv2_profile takes what mnv2_run does and float64 seconds");
    return run(arguments, seconds);
}

MNV2_API int __tvm_ffi_mnv2_set_threads(void *self, const TVMFFIAny *arguments, int32_t count,
                                        TVMFFIAny *result) {
    (void)self;
    nothing(result);
    if (count != 1 || arguments[0].type_index != kTVMFFIInt)
        return fail("mnv2_set_threads takes a count");
    int64_t threads = arguments[0].v_int64;
    int error = threads < 1 || threads > MNV2_MAX_THREADS ? MNV2_ERROR_THREADS
                                                          : mnv2_set_threads((int)threads);
    return error ? refuse(error, "mnv2_set_threads: so many threads cannot be had") : 0;
}
