/* Sizes of the twiddle blocks, shared by the planner and the kernels. Internal. */
#ifndef SE_PLAN_H
#define SE_PLAN_H

/* radix 4 at s == 1: values in one plane, with room for the last vector and its moved load */
#define SE_FIRST4_PLANE(m) ((((m) + 7) & ~7) + 8)

#endif
