/* From reset to main: variables get their values, the stack gets its paint. */
#include <stdint.h>

#include "semihosting.h"
#include "stack.h"

extern uint32_t data_source[], data_start[], data_end[], bss_start[], bss_end[];

int main(void);
void reset(void);

void reset(void)
{
    const uint32_t *source = data_source;
    for (uint32_t *word = data_start; word < data_end; word++) {
        *word = *source++;
    }
    for (uint32_t *word = bss_start; word < bss_end; word++) {
        *word = 0;
    }
    stack_paint();
    main();
    semihosting_end();
}

static void fault(void)
{
    semihosting_text("fault\n");
    semihosting_end();
}

typedef struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vector_table;

__attribute__((section(".vectors"), used)) static const vector_table vectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault},
};
