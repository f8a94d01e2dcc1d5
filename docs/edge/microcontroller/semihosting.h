/* Text and an end for a program that a debugger or an emulator runs. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stdint.h>

void semihosting_text(const char *text);
void semihosting_number(uint32_t number);
void semihosting_end(void);

#endif
