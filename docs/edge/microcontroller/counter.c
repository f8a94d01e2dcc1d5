#include "counter.h"

uint32_t counter_of_loop(uint32_t times)
{
    const uint32_t start = counter_now();
    __asm__ volatile("1: subs %0, #1\n bne 1b" : "+r"(times) : : "cc");
    return counter_now() - start;
}
