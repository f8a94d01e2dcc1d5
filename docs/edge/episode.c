#include "episode.h"

episode_result episode_run(const episode_settings *settings, episode_decide decide, episode_watch watch)
{
    plant cart;
    float readings[READINGS];
    int action = 0;
    episode_result result = {0, 2166136261u};
    plant_start(&cart, settings->seed, settings->noise, settings->delay);
    while (result.balanced < settings->milliseconds && !plant_fallen(&cart)) {
        plant_read(&cart, readings);
        if (result.balanced % settings->period == 0) {
            action = decide(readings);
            result.checksum = (result.checksum ^ (uint32_t)action) * 16777619u;
        }
        const double force = plant_push(&cart, action == 1 ? PLANT_PUSH : -PLANT_PUSH);
        if (watch) {
            watch(&cart, readings, force);
        }
        result.balanced++;
    }
    return result;
}
