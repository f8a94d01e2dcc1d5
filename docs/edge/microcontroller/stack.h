/* How deep the stack has been: what lies below it is painted, and what has lost its paint was used. */
#ifndef STACK_H
#define STACK_H

#include <stdint.h>

extern uint32_t stack_limit[], stack_top[];

/* Paint from the limit to where the caller's stack ends. */
void stack_paint(void);

/* Bytes from the top of the stack to the lowest word without paint. */
uint32_t stack_peak(void);

/* Bytes from the top of the stack to where it ends now. */
uint32_t stack_now(void);

#endif
