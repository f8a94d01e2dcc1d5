/* The episode of the PC on a microcontroller: its actions, instructions of each decision, and depth of the stack. */
#include "../episode.h"
#include "counter.h"
#include "semihosting.h"
#include "snnrl_agent.h"
#include "stack.h"

static const episode_settings SETTINGS = {
    .seed = 1, .milliseconds = MILLISECONDS, .period = 1, .noise = 1, .delay = 10};

static uint32_t decisions;
static uint64_t instructions;
static uint32_t most_instructions;
static uint32_t deepest_decision;
static uint32_t deepest;
static uint32_t cost_of_counting;

static uint32_t larger(uint32_t one, uint32_t other)
{
    return one > other ? one : other;
}

static int decide(const float *readings)
{
    deepest = larger(deepest, stack_peak());
    stack_paint();
    const uint32_t start = counter_now();
    const int action = snnrl_act(readings);
    const uint32_t counted = counter_now() - start - cost_of_counting;
    instructions += counted;
    most_instructions = larger(most_instructions, counted);
    deepest_decision = larger(deepest_decision, stack_peak() - stack_now());
    decisions++;
    return action;
}

static void line(const char *name, uint32_t number)
{
    semihosting_text(name);
    semihosting_text(" ");
    semihosting_number(number);
    semihosting_text("\n");
}

int main(void)
{
    const uint32_t empty_start = counter_now();
    cost_of_counting = counter_now() - empty_start;
    line("counted_for_2000_instructions", counter_of_loop(1000) - cost_of_counting);
    line("counted_for_20000_instructions", counter_of_loop(10000) - cost_of_counting);
    const episode_result result = episode_run(&SETTINGS, decide, 0);
    line("milliseconds_balanced", (uint32_t)result.balanced);
    line("actions_checksum", result.checksum);
    line("instructions_per_decision_mean", (uint32_t)((instructions + decisions / 2) / decisions));
    line("instructions_per_decision_worst", most_instructions);
    line("stack_of_decision", deepest_decision);
    line("stack", larger(deepest, stack_peak()));
    return 0;
}
