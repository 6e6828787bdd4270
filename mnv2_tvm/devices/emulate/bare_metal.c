/* One run of the network on an emulated Cortex-M: what comes out goes to the debugger, in hex.
 *
 * There is no libc. Under `qemu -icount shift=0` an instruction takes a nanosecond of the board's
 * time, so SysTick counts instructions; a loop of known length tells how many make a tick.
 */
#include <stdint.h>

#include <mnv2.h>

#define CALIBRATION_TURNS 1000000 /* of two instructions; as in emulate_bare_metal.py */
#define STACK_PATTERN 0xdeadbeef

enum { SYS_WRITE0 = 4, SYS_EXIT = 24, EXIT_WELL = 0x20026, EXIT_FAULT = 0x20024 };

struct systick {
    uint32_t control, reload, value;
};
#define SYSTICK (*(volatile struct systick *)0xe000e010)
#define FPU_ACCESS (*(volatile uint32_t *)0xe000ed88)

__asm__(".section .rodata.input, \"a\", %progbits\n"
        ".balign 8\n"
        "image: .incbin \"" INPUT_FILE "\"\n"
        ".previous\n");
extern const float image[];
extern uint32_t bss_start[], bss_end[], stack_bottom[], stack_top[];

static float output[MNV2_OUTPUT_SIZE];
static _Alignas(8) char workspace[MNV2_WORKSPACE_BYTES];
static volatile uint32_t wraps;

void *memset(void *memory, int value, __SIZE_TYPE__ size) {
    char *byte = memory;
    uint32_t word = (uint8_t)value * 0x01010101u;
    if ((uintptr_t)byte % 4 == 0)
        for (; size >= 4; size -= 4, byte += 4) *(uint32_t *)byte = word;
    while (size--) *byte++ = (char)value;
    return memory;
}

void *memcpy(void *to, const void *from, __SIZE_TYPE__ size) {
    for (__SIZE_TYPE__ i = 0; i < size; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

static void debugger(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void tell(const char *name, uint32_t value) {
    char text[] = " 00000000\n";
    for (int digit = 8; digit; digit--, value >>= 4) text[digit] = "0123456789abcdef"[value & 15];
    debugger(SYS_WRITE0, name);
    debugger(SYS_WRITE0, text);
}

static void count_wrap(void) { wraps++; }

static uint64_t ticks(void) {
    uint32_t before, value;
    do {
        before = wraps;
        value = SYSTICK.value;
    } while (wraps != before);
    return ((uint64_t)before << 24) + (-value & 0xffffff); /* it counts down */
}

static void fault(void) {
    debugger(SYS_WRITE0, "fault\n");
    debugger(SYS_EXIT, (void *)EXIT_FAULT);
}

static void start(void) {
    FPU_ACCESS |= 0xfu << 20;
    __asm__ volatile("dsb\nisb");
    memset(bss_start, 0, (uintptr_t)bss_end - (uintptr_t)bss_start);
    /* Whatever was in memory before must not matter: NaNs everywhere. */
    memset(workspace, 0xff, sizeof workspace);
    memset(output, 0xff, sizeof output);
    uint32_t *here = __builtin_frame_address(0);
    for (uint32_t *word = stack_bottom; word < here - 64; word++) *word = STACK_PATTERN;

    SYSTICK.reload = 0xffffff;
    SYSTICK.value = 0;
    SYSTICK.control = 7; /* on, with interrupts, at the processor's clock */
    uint64_t begin = ticks();
    uint32_t turns = CALIBRATION_TURNS;
    __asm__ volatile("1: subs %0, #1\nbne 1b" : "+r"(turns) : : "cc");
    uint64_t calibrated = ticks();
    int error = mnv2_run(image, output, workspace);
    uint64_t end = ticks();

    uint32_t *word = stack_bottom;
    while (word < here && *word == STACK_PATTERN) word++;
    tell("error", (uint32_t)error);
    tell("calibration", (uint32_t)(calibrated - begin));
    tell("ticks_high", (uint32_t)((end - calibrated) >> 32));
    tell("ticks", (uint32_t)(end - calibrated));
    tell("stack", (uint32_t)((uintptr_t)here - (uintptr_t)word));
    for (int i = 0; i < MNV2_OUTPUT_SIZE; i++) tell("output", ((const uint32_t *)output)[i]);
    debugger(SYS_EXIT, (void *)EXIT_WELL);
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, start, fault, fault, fault, fault, fault, 0, 0, 0, 0,
    fault, fault, 0, fault, count_wrap};
