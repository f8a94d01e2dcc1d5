/* Seconds balanced by sensor noise and actuator delay, at 1 kHz and at the 20 ms that the agent was trained at. */
#include <stdio.h>

#include "episode.h"
#include "snnrl_agent.h"

static const int PERIODS[] = {1, 20};
static const double NOISES[] = {0, 1, 4, 16};
static const int DELAYS[] = {0, 20, 40, 60, 80, 100};
static const int MILLISECONDS = 20000;
static const uint32_t SEEDS = 10;

#define LENGTH(array) ((int)(sizeof(array) / sizeof *(array)))

/* Print the mean and the shortest of all seeds. */
static void cell(episode_settings settings)
{
    int sum = 0;
    int shortest = MILLISECONDS;
    for (settings.seed = 1; settings.seed <= SEEDS; settings.seed++) {
        const int balanced = episode_run(&settings, snnrl_act, NULL).balanced;
        sum += balanced;
        shortest = balanced < shortest ? balanced : shortest;
    }
    printf(" %6.2f/%5.2f", sum / 1000.0 / SEEDS, shortest / 1000.0);
}

int main(void)
{
    printf("seconds balanced of %d, mean/shortest of %u seeds\n", MILLISECONDS / 1000, (unsigned)SEEDS);
    printf("period noise");
    for (int delay = 0; delay < LENGTH(DELAYS); delay++) {
        printf(" %6d ms   ", DELAYS[delay]);
    }
    printf("\n");
    for (int period = 0; period < LENGTH(PERIODS); period++) {
        for (int noise = 0; noise < LENGTH(NOISES); noise++) {
            printf("%3d ms %5g", PERIODS[period], NOISES[noise]);
            for (int delay = 0; delay < LENGTH(DELAYS); delay++) {
                cell((episode_settings){0, MILLISECONDS, PERIODS[period], NOISES[noise], DELAYS[delay]});
            }
            printf("\n");
        }
    }
    return 0;
}
