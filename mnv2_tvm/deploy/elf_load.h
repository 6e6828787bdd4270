/* Load libmnv2.so into a static program, which has no dynamic linker to ask. */
#ifndef MNV2_ELF_LOAD_H
#define MNV2_ELF_LOAD_H

/* Map the library of this machine's own kind in the file `path` and bind what it takes from libc.
 * Ends the program, with a sentence and EXIT_LIBRARY, where that cannot be done. */
void elf_load(const char *path);

/* The address of a function of the loaded library; ends the program as above without it. */
void *elf_symbol(const char *name);

enum { EXIT_LIBRARY = 4 };

#endif
