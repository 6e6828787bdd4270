/* A dynamic linker for one library that `build` wrote: its segments, its few relocations, and some
 * twenty functions of libc, which this program has inside. No thread-local data, no constructors,
 * no other library: the build makes sure of that, and what is there all the same is refused. */
#define _GNU_SOURCE
#include "elf_load.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
enum { MACHINE = EM_X86_64, RELATIVE = R_X86_64_RELATIVE, SLOT = R_X86_64_JUMP_SLOT };
enum { DATA = R_X86_64_GLOB_DAT, ABSOLUTE = R_X86_64_64 };
#elif defined(__aarch64__)
enum { MACHINE = EM_AARCH64, RELATIVE = R_AARCH64_RELATIVE, SLOT = R_AARCH64_JUMP_SLOT };
enum { DATA = R_AARCH64_GLOB_DAT, ABSOLUTE = R_AARCH64_ABS64 };
#elif defined(__arm__)
enum { MACHINE = EM_ARM, RELATIVE = R_ARM_RELATIVE, SLOT = R_ARM_JUMP_SLOT };
enum { DATA = R_ARM_GLOB_DAT, ABSOLUTE = R_ARM_ABS32 };
#elif defined(__riscv)
enum { MACHINE = EM_RISCV, RELATIVE = R_RISCV_RELATIVE, SLOT = R_RISCV_JUMP_SLOT };
enum { DATA = R_RISCV_64, ABSOLUTE = R_RISCV_64 };
#else
#error "which relocations has this machine?"
#endif

#if __SIZEOF_POINTER__ == 4
/* The library was compiled for glibc, whose seconds have 32 bits there; musl's have 64. */
static int clock_gettime_32(clockid_t clock, int32_t *seconds_and_nanoseconds) {
    struct timespec time;
    int failed = clock_gettime(clock, &time);
    seconds_and_nanoseconds[0] = (int32_t)time.tv_sec;
    seconds_and_nanoseconds[1] = (int32_t)time.tv_nsec;
    return failed;
}
#define CLOCK_GETTIME clock_gettime_32
#else
#define CLOCK_GETTIME clock_gettime
#endif

#define IMPORT(name) {#name, (uintptr_t)&name}
static const struct {
    const char *name;
    uintptr_t address;
} imports[] = {
    {"clock_gettime", (uintptr_t)&CLOCK_GETTIME},
    IMPORT(free),
    IMPORT(getauxval),          IMPORT(getpid),
    IMPORT(madvise),            IMPORT(memcpy),
    IMPORT(memmove),            IMPORT(memset),
    IMPORT(mmap),               IMPORT(munmap),
    IMPORT(posix_memalign),     IMPORT(pthread_cond_broadcast),
    IMPORT(pthread_cond_wait),  IMPORT(pthread_create),
    IMPORT(pthread_join),       IMPORT(pthread_mutex_lock),
    IMPORT(pthread_mutex_trylock), IMPORT(pthread_mutex_unlock),
    IMPORT(pthread_sigmask),    IMPORT(sched_getaffinity),
    IMPORT(sched_setaffinity),  IMPORT(sigfillset),
    IMPORT(syscall),
};

static struct {
    const char *path;
    char *base;      /* where its address 0 is */
    size_t span;     /* bytes from there */
    const ElfW(Sym) *symbols;
    const char *names;
    size_t symbol_count, name_bytes;
} library;

static _Noreturn void refuse(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fprintf(stderr, "%s cannot be loaded: ", library.path);
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    va_end(values);
    exit(EXIT_LIBRARY);
}

/* Memory of the library at one of its addresses. */
static void *at(size_t address, size_t bytes) {
    if (address > library.span || bytes > library.span - address) refuse("an address is outside of it");
    return library.base + address;
}

static int protection(unsigned flags) {
    return (flags & PF_R ? PROT_READ : 0) | (flags & PF_W ? PROT_WRITE : 0) |
           (flags & PF_X ? PROT_EXEC : 0);
}

static void map_segment(int file, const ElfW(Phdr) *part, size_t page) {
    size_t lead = part->p_vaddr % page;
    char *start = (char *)at(part->p_vaddr, part->p_memsz) - lead;
    if (part->p_filesz > part->p_memsz || part->p_offset % page != lead) refuse("a segment is askew");
    size_t bytes = part->p_filesz + lead;
    int flags = protection(part->p_flags);
    if (part->p_filesz && mmap(start, bytes, flags, MAP_PRIVATE | MAP_FIXED, file,
                               (off_t)(part->p_offset - lead)) == MAP_FAILED)
        refuse("no memory, or its folder is mounted noexec");
    size_t mapped = part->p_filesz ? (bytes + page - 1) / page * page : 0;
    size_t all = (part->p_memsz + lead + page - 1) / page * page;
    if (all > mapped && mprotect(start + mapped, all - mapped, flags)) refuse("no memory");
    if (part->p_flags & PF_W) memset(start + bytes, 0, (mapped > bytes ? mapped - bytes : 0));
}

static uintptr_t address_of(size_t number) {
    if (number >= library.symbol_count) refuse("a symbol is outside of its table");
    const ElfW(Sym) *symbol = &library.symbols[number];
    if (symbol->st_shndx != SHN_UNDEF) return (uintptr_t)at(symbol->st_value, 0);
    if (symbol->st_name >= library.name_bytes) refuse("a name is outside of its table");
    const char *name = library.names + symbol->st_name;
    for (size_t i = 0; i < sizeof imports / sizeof *imports; i++)
        if (!strcmp(imports[i].name, name)) return imports[i].address;
    if (symbol->st_info >> 4 != STB_WEAK) refuse("it wants %s, which this program has not", name);
    return 0;
}

/* `addend` NULL: it lies at the place itself. */
static void relocate(size_t offset, size_t type, size_t symbol, const intptr_t *addend) {
    uintptr_t *place = at(offset, sizeof *place);
    uintptr_t more = addend ? (uintptr_t)*addend : *place;
    if (type == RELATIVE)
        *place = (uintptr_t)library.base + more;
    else if (type == SLOT || type == DATA)
        *place = address_of(symbol) + (type == ABSOLUTE ? more : 0);
    else if (type == ABSOLUTE)
        *place = address_of(symbol) + more;
    else
        refuse("it has relocations of kind %zu", type);
}

static void relocate_all(size_t address, size_t bytes, int with_addends) {
    for (size_t done = 0; done < bytes;) {
        size_t info;
        if (with_addends) {
            const ElfW(Rela) *one = at(address + done, sizeof *one);
            intptr_t addend = (intptr_t)one->r_addend;
            info = one->r_info;
            relocate(one->r_offset, sizeof info == 8 ? (uint32_t)info : info & 255,
                     sizeof info == 8 ? (uint64_t)info >> 32 : info >> 8, &addend);
            done += sizeof *one;
        } else {
            const ElfW(Rel) *one = at(address + done, sizeof *one);
            info = one->r_info;
            relocate(one->r_offset, sizeof info == 8 ? (uint32_t)info : info & 255,
                     sizeof info == 8 ? (uint64_t)info >> 32 : info >> 8, NULL);
            done += sizeof *one;
        }
    }
}

static void bind(const ElfW(Dyn) *entries, size_t count) {
    size_t values[64] = {0};
    for (size_t i = 0; i < count && entries[i].d_tag != DT_NULL; i++) {
        if (entries[i].d_tag == DT_INIT || entries[i].d_tag == DT_INIT_ARRAY)
            refuse("it has constructors");
        if (entries[i].d_tag > 0 && entries[i].d_tag < 64) values[entries[i].d_tag] = entries[i].d_un.d_val;
    }
    if (!values[DT_HASH] || !values[DT_SYMTAB] || !values[DT_STRTAB]) refuse("it has no symbols");
    const uint32_t *hash = at(values[DT_HASH], 2 * sizeof *hash);
    library.symbol_count = hash[1];
    library.symbols = at(values[DT_SYMTAB], library.symbol_count * sizeof *library.symbols);
    library.name_bytes = values[DT_STRSZ];
    library.names = at(values[DT_STRTAB], library.name_bytes);
    if (!library.name_bytes || library.names[library.name_bytes - 1]) refuse("its names have no end");
    relocate_all(values[DT_RELA], values[DT_RELASZ], 1);
    relocate_all(values[DT_REL], values[DT_RELSZ], 0);
    relocate_all(values[DT_JMPREL], values[DT_PLTRELSZ], values[DT_PLTREL] == DT_RELA);
}

void elf_load(const char *path) {
    library.path = path;
    ElfW(Ehdr) head;
    ElfW(Phdr) parts[16];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) refuse("it cannot be read");
    if (read(file, &head, sizeof head) != sizeof head || memcmp(head.e_ident, ELFMAG, SELFMAG) ||
        head.e_machine != MACHINE || head.e_type != ET_DYN || head.e_phnum > 16)
        refuse("it is no library of this machine's kind");
    ssize_t bytes = (ssize_t)(head.e_phnum * sizeof *parts);
    if (pread(file, parts, (size_t)bytes, (off_t)head.e_phoff) != bytes) refuse("it is cut off");
    const ElfW(Phdr) *dynamic = NULL;
    for (int i = 0; i < head.e_phnum; i++) {
        size_t end = parts[i].p_vaddr + parts[i].p_memsz;
        if (parts[i].p_type == PT_TLS) refuse("it has thread-local data");
        if (parts[i].p_type == PT_DYNAMIC) dynamic = &parts[i];
        if (parts[i].p_type == PT_LOAD && end > library.span) library.span = end;
    }
    library.base = mmap(NULL, library.span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (library.base == MAP_FAILED || !dynamic) refuse("there is no memory for it");
    for (int i = 0; i < head.e_phnum; i++)
        if (parts[i].p_type == PT_LOAD) map_segment(file, &parts[i], (size_t)sysconf(_SC_PAGESIZE));
    close(file);
    bind(at(dynamic->p_vaddr, dynamic->p_memsz), dynamic->p_memsz / sizeof(ElfW(Dyn)));
}

void *elf_symbol(const char *name) {
    for (size_t i = 0; i < library.symbol_count; i++) {
        const ElfW(Sym) *symbol = &library.symbols[i];
        if (symbol->st_shndx != SHN_UNDEF && symbol->st_name < library.name_bytes &&
            !strcmp(library.names + symbol->st_name, name))
            return at(symbol->st_value, 0);
    }
    refuse("it has no %s: it is of an earlier version", name);
}
