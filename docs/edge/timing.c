#define _POSIX_C_SOURCE 200809L
#include "timing.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>

static const int64_t SECOND = 1000000000;

int64_t timing_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND + (int64_t)now.tv_nsec;
}

void timing_sleep_until(int64_t nanoseconds)
{
    const struct timespec then = {.tv_sec = (time_t)(nanoseconds / SECOND), .tv_nsec = (long)(nanoseconds % SECOND)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL) == EINTR) {
    }
}

static int by_length(const void *left, const void *right)
{
    const int64_t difference = *(const int64_t *)left - *(const int64_t *)right;
    return (difference > 0) - (difference < 0);
}

timing timing_of(int64_t *durations, int count)
{
    double sum = 0;
    double squares = 0;
    for (int i = 0; i < count; i++) {
        const double microseconds = (double)durations[i] / 1000;
        sum += microseconds;
        squares += microseconds * microseconds;
    }
    const double mean = sum / count;
    qsort(durations, (size_t)count, sizeof *durations, by_length);
    return (timing){
        .mean = mean,
        .median = (double)durations[count / 2] / 1000,
        .deviation = sqrt(fmax(0, squares / count - mean * mean)),
        .most_of_thousand = (double)durations[(int64_t)(count - 1) * 999 / 1000] / 1000,
        .worst = (double)durations[count - 1] / 1000,
    };
}
