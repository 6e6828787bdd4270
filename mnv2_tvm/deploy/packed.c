/* The TVM entry of the same library: `lib["mnv2_run"](input, output, workspace)` on tensors.
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

/* The memory of a tensor argument of at least `bytes`, or NULL. */
static void *memory(const TVMFFIAny *argument, uint64_t bytes) {
    const DLTensor *tensor;
    if (argument->type_index == kTVMFFIDLTensorPtr)
        tensor = argument->v_ptr;
    else if (argument->type_index == kTVMFFITensor)
        tensor = (const DLTensor *)((const char *)argument->v_obj + sizeof(TVMFFIObject));
    else
        return NULL;
    uint64_t size = (uint64_t)tensor->dtype.bits / 8 * tensor->dtype.lanes;
    for (int axis = 0; axis < tensor->ndim; axis++) size *= (uint64_t)tensor->shape[axis];
    return size < bytes ? NULL : (char *)tensor->data + tensor->byte_offset;
}

MNV2_API int __tvm_ffi_mnv2_run(void *self, const TVMFFIAny *arguments, int32_t count,
                                TVMFFIAny *result) {
    (void)self;
    result->type_index = kTVMFFINone;
    result->zero_padding = 0;
    result->v_int64 = 0;
    if (count != 3) return fail("mnv2_run takes input, output and workspace");
    const float *input = memory(&arguments[0], sizeof(float) * MNV2_INPUT_SIZE);
    float *output = memory(&arguments[1], sizeof(float) * MNV2_OUTPUT_SIZE);
    void *workspace = memory(&arguments[2], MNV2_WORKSPACE_BYTES);
    if (!input || !output || !workspace)
        return fail("mnv2_run: an argument is no tensor, or smaller than mnv2.h says");
    return mnv2_run(input, output, workspace) ? fail("mnv2_run failed") : 0;
}
