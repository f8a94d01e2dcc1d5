#include "stack.h"

static const uint32_t PAINT = 0xc0a7ed5au;

static inline uint32_t *end_of_stack(void)
{
    uint32_t *end;
    __asm__ volatile("mov %0, sp" : "=r"(end));
    return end;
}

void stack_paint(void)
{
    const uint32_t *end = end_of_stack();
    for (uint32_t *word = stack_limit; word < end; word++) {
        *word = PAINT;
    }
}

uint32_t stack_peak(void)
{
    const uint32_t *word = stack_limit;
    while (word < stack_top && *word == PAINT) {
        word++;
    }
    return (uint32_t)((uintptr_t)stack_top - (uintptr_t)word);
}

uint32_t stack_now(void)
{
    return (uint32_t)((uintptr_t)stack_top - (uintptr_t)end_of_stack());
}
