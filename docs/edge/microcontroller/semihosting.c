#include "semihosting.h"

enum { WRITE0 = 0x04, EXIT = 0x18 };
static const uintptr_t APPLICATION_EXIT = 0x20026;

static void call(uintptr_t operation, uintptr_t argument)
{
    register uintptr_t r0 __asm__("r0") = operation;
    register uintptr_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void semihosting_text(const char *text)
{
    call(WRITE0, (uintptr_t)text);
}

void semihosting_number(uint32_t number)
{
    char digits[11];
    char *first = digits + sizeof digits - 1;
    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    semihosting_text(first);
}

void semihosting_end(void)
{
    call(EXIT, APPLICATION_EXIT);
}
