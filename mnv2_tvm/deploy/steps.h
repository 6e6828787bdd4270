/* A run and its steps, as the threads of a team share them. */
#ifndef MNV2_STEPS_H
#define MNV2_STEPS_H

struct run {
    const float *input;
    float *output;
    void *workspace;
    double *seconds; /* of each layer, or NULL */
    int threads;     /* of the team that does it */
    unsigned start;  /* shares that the library had finished before */
};

/* How long a thread spins before it sleeps, and for how long it has in this run. */
struct patience {
    double spin_s, spun_s;
};

#define LONGEST_SPIN_S 50e-6 /* about what it costs to sleep and be woken */
#define SHORTEST_SPIN_S 1e-6

/* runtime.c: one share of a step's tasks, with the scratch memory of the thread that does it. */
void mnv2_do_share(const struct run *run, int step, int share, int thread, void *scratch);

/* steps.c: open a run of run->threads threads. No other may be open. */
void mnv2_open_run(struct run *run);

/* Take part in a run until its last step is over. Returns how many shares this thread did. */
int mnv2_walk(const struct run *run, int thread, void *scratch, struct patience *patience);

void mnv2_walk_alone(struct run *run);
void mnv2_forget_sleepers(void); /* in a forked child */
double mnv2_now(void);           /* seconds */

/* team.c: do the run with the library's threads, or on the thread that calls. */
void mnv2_do_run(struct run *run, int threads);

/* Start what is missing for a team of so many. Returns the threads that there are. */
int mnv2_start_threads(int threads);

/* The size of the team that a run would have now. */
int mnv2_limit_team(int threads);

int mnv2_pin_thread(int thread, int cpu); /* one that has been started */
void mnv2_end_threads(void);

#endif
