/* Clocks. */
#ifndef BASIN_BASE_CLOCK_H
#define BASIN_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_ns(void);      /* monotonic */
int64_t clock_unix_ns(void); /* wall clock since 1970 */

#endif
