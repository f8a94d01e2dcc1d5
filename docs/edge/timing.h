/* What a list of durations comes to. */
#ifndef TIMING_H
#define TIMING_H

#include <stdint.h>

typedef struct {
    double mean; /* microseconds, all five */
    double median;
    double deviation;
    double most_of_thousand; /* the 99.9th percentile */
    double worst;
} timing;

/* Nanoseconds of a clock that only goes forwards. */
int64_t timing_now(void);

/* Sleep until timing_now() is at least this. */
void timing_sleep_until(int64_t nanoseconds);

/* Sorts the durations, nanoseconds; count is at least 1. */
timing timing_of(int64_t *durations, int count);

#endif
