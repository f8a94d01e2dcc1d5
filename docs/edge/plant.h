/* A cart with a pole on it: Barto, Sutton and Anderson (1983), with the constants of gymnasium's CartPole-v1, seen by
   noisy sensors and pushed by an actuator that is late. The same numbers on every machine: no libraries, no heap. */
#ifndef PLANT_H
#define PLANT_H

#include <stdbool.h>
#include <stdint.h>

#define PLANT_PUSH 10.0 /* newtons, to either side */
#define PLANT_LONGEST_DELAY 100 /* milliseconds */

enum { POSITION, VELOCITY, ANGLE, ANGULAR_VELOCITY, READINGS };

typedef struct {
    double state[READINGS]; /* metres and radians, and both per second */
    double noise;
    uint32_t random;
    double forces[PLANT_LONGEST_DELAY + 1]; /* newtons, those under way to the cart */
    int delay; /* milliseconds */
    int now;
} plant;

/* Start nearly upright and at rest, as CartPole-v1 does; noise 1 is 1 cm, 5 cm/s, 0.005 rad and 0.05 rad/s. */
void plant_start(plant *self, uint32_t seed, double noise, int delay);

/* What the four sensors say: each is off by Gaussian noise. */
void plant_read(plant *self, float *readings);

/* Send a force on its way, let a millisecond pass, and return the force that acted. */
double plant_push(plant *self, double force);

/* Whether the pole leans by more than 12 degrees or the cart is off its track of 2.4 metres to either side. */
bool plant_fallen(const plant *self);

/* Move a state on by one Euler step. */
void plant_move(double *state, double force, double seconds);

#endif
