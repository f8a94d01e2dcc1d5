#include "plant.h"

static const double GRAVITY = 9.8;
static const double CART = 1.0; /* kilograms */
static const double POLE = 0.1; /* kilograms */
static const double HALF_POLE = 0.5; /* metres */
static const double TRACK = 2.4; /* metres to either side */
static const double LARGEST_ANGLE = 12 * 3.14159265358979323846 / 180;
static const double START = 0.05;
static const double STEP = 0.001; /* seconds */
static const double NOISE[READINGS] = {0.01, 0.05, 0.005, 0.05};

/* SplitMix with 32 bits of state. */
static uint32_t draw(plant *self)
{
    self->random += 0x9e3779b9u;
    uint32_t bits = self->random;
    bits = (bits ^ (bits >> 16)) * 0x21f0aaadu;
    bits = (bits ^ (bits >> 15)) * 0x735a2d97u;
    return bits ^ (bits >> 15);
}

/* The sum of twelve uniform numbers has variance 1, and needs no logarithm that differs between C libraries. */
static double gaussian(plant *self)
{
    uint64_t sum = 0;
    for (int i = 0; i < 12; i++) {
        sum += draw(self);
    }
    return (double)sum / 4294967296.0 - 6.0;
}

/* Taylor's series: within 1e-12 up to half a radian, and the same on every machine. */
static double sine(double angle)
{
    const double square = angle * angle;
    return angle * (1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72 * (1 - square / 110)))));
}

static double cosine(double angle)
{
    const double square = angle * angle;
    return 1 - square / 2 * (1 - square / 12 * (1 - square / 30 * (1 - square / 56 * (1 - square / 90))));
}

void plant_start(plant *self, uint32_t seed, double noise, int delay)
{
    self->random = seed;
    self->noise = noise;
    self->delay = delay;
    self->now = 0;
    for (int i = 0; i <= PLANT_LONGEST_DELAY; i++) {
        self->forces[i] = 0;
    }
    for (int i = 0; i < READINGS; i++) {
        self->state[i] = START * ((double)draw(self) / 2147483648.0 - 1.0);
    }
}

void plant_read(plant *self, float *readings)
{
    for (int i = 0; i < READINGS; i++) {
        readings[i] = (float)(self->state[i] + self->noise * NOISE[i] * gaussian(self));
    }
}

double plant_push(plant *self, double force)
{
    self->forces[(self->now + self->delay) % (PLANT_LONGEST_DELAY + 1)] = force;
    const double acting = self->forces[self->now % (PLANT_LONGEST_DELAY + 1)];
    plant_move(self->state, acting, STEP);
    self->now++;
    return acting;
}

bool plant_fallen(const plant *self)
{
    const double position = self->state[POSITION];
    const double angle = self->state[ANGLE];
    return position < -TRACK || position > TRACK || angle < -LARGEST_ANGLE || angle > LARGEST_ANGLE;
}

void plant_move(double *state, double force, double seconds)
{
    const double sin = sine(state[ANGLE]);
    const double cos = cosine(state[ANGLE]);
    const double total = CART + POLE;
    const double spin = state[ANGULAR_VELOCITY] * state[ANGULAR_VELOCITY];
    const double pushed = (force + POLE * HALF_POLE * spin * sin) / total;
    const double angular = (GRAVITY * sin - cos * pushed) / (HALF_POLE * (4.0 / 3.0 - POLE * cos * cos / total));
    const double linear = pushed - POLE * HALF_POLE * angular * cos / total;
    state[POSITION] += seconds * state[VELOCITY];
    state[VELOCITY] += seconds * linear;
    state[ANGLE] += seconds * state[ANGULAR_VELOCITY];
    state[ANGULAR_VELOCITY] += seconds * angular;
}
