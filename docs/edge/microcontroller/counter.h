/* Instructions, counted by qemu: with -icount shift=0 each takes a nanosecond of virtual time, and timer 2 of its
   STM32F205 counts nanoseconds. A real chip's timer has to be given a clock and be started first. */
#ifndef COUNTER_H
#define COUNTER_H

#include <stdint.h>

static inline uint32_t counter_now(void)
{
    return *(volatile uint32_t *)0x40000024u;
}

/* Run a loop of two instructions so many times, at least once, and return how many instructions were counted. */
uint32_t counter_of_loop(uint32_t times);

#endif
