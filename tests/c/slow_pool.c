/* Global average pooling that sleeps: a measurement that takes its time and no core. */
#define _GNU_SOURCE
#include <time.h>
#include <tvm/ffi/c_api.h>

static const DLTensor *tensor(const TVMFFIAny *argument) {
    if (argument->type_index == kTVMFFIDLTensorPtr) return argument->v_ptr;
    return (const DLTensor *)((const char *)argument->v_obj + sizeof(TVMFFIObject));
}

__attribute__((visibility("default"))) int ENTRY(void *self, const TVMFFIAny *arguments,
                                                 int32_t count, TVMFFIAny *result) {
    const DLTensor *input = tensor(&arguments[0]), *output = tensor(&arguments[1]);
    const float *x = input->data;
    float *y = output->data;
    int64_t pixels = input->shape[1] * input->shape[2], channels = input->shape[3];
    struct timespec pause = {0, SLEEP_MS * 1000000};
    nanosleep(&pause, NULL);
    for (int64_t c = 0; c < channels; c++) {
        y[c] = 0;
        for (int64_t i = 0; i < pixels; i++) y[c] += x[i * channels + c] / (float)pixels;
    }
    (void)self, (void)count;
    *result = (TVMFFIAny){.type_index = kTVMFFINone};
    return 0;
}
