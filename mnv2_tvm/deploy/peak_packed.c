/* `mnv2_fma_seconds` as a TVM entry, for this host and for boards over RPC.
 *
 * `lib["mnv2_fma_seconds"](factor, addend, rounds, threads)`
 */
#include <tvm/ffi/c_api.h>

#include "peak.h"

__attribute__((visibility("default"))) int __tvm_ffi_mnv2_fma_seconds(void *self,
                                                                      const TVMFFIAny *arguments,
                                                                      int32_t count,
                                                                      TVMFFIAny *result) {
    (void)self;
    result->type_index = kTVMFFIFloat;
    result->zero_padding = 0;
    result->v_float64 = -1;
    if (count != 4 || arguments[0].type_index != kTVMFFIFloat ||
        arguments[1].type_index != kTVMFFIFloat || arguments[2].type_index != kTVMFFIInt ||
        arguments[3].type_index != kTVMFFIInt)
        return 0;
    int64_t threads = arguments[3].v_int64;
    if (threads < 1 || threads > MNV2_PEAK_THREADS) return 0;
    result->v_float64 =
        mnv2_fma_seconds((float)arguments[0].v_float64, (float)arguments[1].v_float64,
                         (long)arguments[2].v_int64, (int)threads);
    return 0;
}
