/* An episode: sensors, agent and cart, millisecond after millisecond, the same on a PC and on a microcontroller. */
#ifndef EPISODE_H
#define EPISODE_H

#include <stdint.h>

#include "plant.h"

typedef struct {
    uint32_t seed;
    int milliseconds;
    int period; /* milliseconds between decisions */
    double noise;
    int delay; /* milliseconds from a decision to its force */
} episode_settings;

typedef struct {
    int balanced; /* milliseconds until the pole fell, or all of them */
    uint32_t checksum; /* FNV-1a of the actions */
} episode_result;

/* Return 0 to push to the left, 1 to the right. */
typedef int (*episode_decide)(const float *readings);

/* Look at a millisecond that has passed. */
typedef void (*episode_watch)(const plant *cart, const float *readings, double force);

/* watch may be NULL. */
episode_result episode_run(const episode_settings *settings, episode_decide decide, episode_watch watch);

#endif
