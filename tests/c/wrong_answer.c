/* A library around another one, RIGHT_LIBRARY of the environment: its kernel, and one wrong value. */
#include <dlfcn.h>
#include <stdlib.h>
#include <tvm/ffi/c_api.h>

#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)

static TVMFFISafeCallType right;

__attribute__((constructor)) static void find_right(void) {
    void *library = dlopen(getenv("RIGHT_LIBRARY"), RTLD_NOW);
    right = library ? (TVMFFISafeCallType)dlsym(library, TEXT(ENTRY)) : NULL;
}

__attribute__((visibility("default"))) int ENTRY(void *self, const TVMFFIAny *arguments,
                                                 int32_t count, TVMFFIAny *result) {
    int error = right(self, arguments, count, result);
    const TVMFFIAny *last = &arguments[count - 1];
    const DLTensor *y = last->type_index == kTVMFFIDLTensorPtr
                            ? last->v_ptr
                            : (const void *)((const char *)last->v_obj + sizeof(TVMFFIObject));
    *(float *)y->data += 1;
    return error;
}
