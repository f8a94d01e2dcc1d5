/* The control loop on a PC: an episode for each seed, with the time that each decision took. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "episode.h"
#include "snnrl_agent.h"
#include "timing.h"

#define MOST_MILLISECONDS 600000
#define MILLISECOND 1000000 /* nanoseconds */

static const char USAGE[] =
    "usage: loop [--seconds 20] [--seeds 5] [--period 1] [--noise 1] [--delay 10] [--paced 1] [--csv FILE]\n"
    "  --period and --delay in milliseconds; --paced 1 waits for the clock; --csv records the last seed\n";

static const char COLUMNS[] = "   median     mean      std    99.9%    worst";

static int64_t durations[MOST_MILLISECONDS];
static int64_t wake_ups[MOST_MILLISECONDS];
static int decisions;
static int missed;
static int64_t deadline; /* 0 if nothing is paced */
static int64_t period;
static int latest_action;
static FILE *csv;

static int decide(const float *readings)
{
    if (deadline > 0) {
        timing_sleep_until(deadline);
        wake_ups[decisions] = timing_now() - deadline;
    }
    const int64_t start = timing_now();
    latest_action = snnrl_act(readings);
    const int64_t end = timing_now();
    durations[decisions++] = end - start;
    if (deadline > 0) {
        missed += end - deadline > period;
        deadline += period;
    }
    return latest_action;
}

static void record(const plant *cart, const float *readings, double force)
{
    fprintf(csv, "%d", cart->now);
    for (int i = 0; i < READINGS; i++) {
        fprintf(csv, ",%.5g,%.5g", cart->state[i], (double)readings[i]);
    }
    fprintf(csv, ",%d,%g,%lld\n", latest_action, force, (long long)durations[decisions - 1]);
}

static void show(const timing *times)
{
    printf(" %8.2f %8.2f %8.2f %8.2f %8.2f", times->median, times->mean, times->deviation, times->most_of_thousand,
           times->worst);
}

static void run_seed(const episode_settings *settings, bool paced)
{
    decisions = 0;
    missed = 0;
    period = (int64_t)settings->period * MILLISECOND;
    deadline = paced ? timing_now() + period : 0;
    const episode_result result = episode_run(settings, decide, csv ? record : NULL);
    const timing times = timing_of(durations, decisions);
    printf("%4u %8.3f %08x", (unsigned)settings->seed, result.balanced / 1000.0, (unsigned)result.checksum);
    show(&times);
    if (paced) {
        const timing late = timing_of(wake_ups, decisions);
        printf(" %6d", missed);
        show(&late);
    }
    printf("\n");
}

int main(int count, char **words)
{
    double seconds = 20;
    int seeds = 5;
    bool paced = false;
    const char *path = NULL;
    episode_settings settings = {.period = 1, .noise = 1, .delay = 10};
    for (int i = 1; i < count; i += 2) {
        const char *value = i + 1 < count ? words[i + 1] : "";
        char *end;
        const double number = strtod(value, &end);
        const bool is_number = end != value && !*end && number > -1e9 && number < 1e9;
        if (!strcmp(words[i], "--csv") && *value) {
            path = value;
        } else if (is_number && !strcmp(words[i], "--seconds")) {
            seconds = number;
        } else if (is_number && !strcmp(words[i], "--seeds")) {
            seeds = (int)number;
        } else if (is_number && !strcmp(words[i], "--period")) {
            settings.period = (int)number;
        } else if (is_number && !strcmp(words[i], "--noise")) {
            settings.noise = number;
        } else if (is_number && !strcmp(words[i], "--delay")) {
            settings.delay = (int)number;
        } else if (is_number && !strcmp(words[i], "--paced")) {
            paced = number > 0;
        } else {
            fputs(USAGE, stderr);
            return 2;
        }
    }
    if (!(seconds >= 0.001 && seconds * 1000 <= MOST_MILLISECONDS) || seeds < 1 || settings.period < 1 ||
        settings.delay < 0 || settings.delay > PLANT_LONGEST_DELAY) {
        fputs(USAGE, stderr);
        return 2;
    }
    settings.milliseconds = (int)(seconds * 1000 + 0.5);
    printf("%30s microseconds of a decision%s\n", "", paced ? " and, on the right, from a deadline to waking up" : "");
    printf("seed  seconds  actions%s%s%s\n", COLUMNS, paced ? " missed" : "", paced ? COLUMNS : "");
    for (int seed = 1; seed <= seeds; seed++) {
        if (path && seed == seeds) {
            csv = fopen(path, "w");
            if (!csv) {
                perror(path);
                return 1;
            }
            fprintf(csv, "millisecond,position,position_read,velocity,velocity_read,angle,angle_read,"
                         "angular_velocity,angular_velocity_read,action,force,nanoseconds\n");
        }
        settings.seed = (uint32_t)seed;
        run_seed(&settings, paced);
    }
    return csv && fclose(csv) ? 1 : 0;
}
