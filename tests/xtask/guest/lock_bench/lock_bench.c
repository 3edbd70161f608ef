// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * One mutex, and a thread on every CPU that wants it: what an acquisition takes.
 *
 * Loading runs it for `ms` milliseconds and prints `LOCK <acquisitions> in <ns> ns, wrong <n>`;
 * `hold` and `outside` are rounds of an empty loop with the mutex and without it.
 */
#include <linux/completion.h>
#include <linux/cpu.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>

static uint ms = 1000;
module_param(ms, uint, 0);
static uint hold = 400;
module_param(hold, uint, 0);
static uint outside = 800;
module_param(outside, uint, 0);

static DEFINE_MUTEX(lock);
static DECLARE_COMPLETION(ended);
static atomic_t running;
static bool stop;
/* Both only with the mutex: it is none if they differ. */
static u64 acquired;
static u64 counted;
static u64 wrong;

static void spin(uint rounds)
{
	while (rounds--)
		barrier();
}

static int worker(void *unused)
{
	while (!READ_ONCE(stop)) {
		u64 before;

		mutex_lock(&lock);
		before = acquired;
		wrong += before != counted;
		acquired = before + 1;
		spin(hold);
		counted = before + 1;
		mutex_unlock(&lock);
		spin(outside);
		cond_resched();
	}
	if (atomic_dec_and_test(&running))
		complete(&ended);
	return 0;
}

static int __init lock_bench_init(void)
{
	ktime_t begin;
	int cpu;

	atomic_set(&running, 1);
	for_each_online_cpu(cpu) {
		struct task_struct *task = kthread_create(worker, NULL, "lock_bench/%d", cpu);

		if (IS_ERR(task))
			continue;
		kthread_bind(task, cpu);
		atomic_inc(&running);
		wake_up_process(task);
	}
	begin = ktime_get();
	schedule_timeout_uninterruptible(msecs_to_jiffies(ms));
	WRITE_ONCE(stop, true);
	if (!atomic_dec_and_test(&running))
		wait_for_completion(&ended);
	pr_info("LOCK %llu in %lld ns, wrong %llu\n", acquired,
		ktime_to_ns(ktime_sub(ktime_get(), begin)), wrong);
	return 0;
}

static void __exit lock_bench_exit(void)
{
}

module_init(lock_bench_init);
module_exit(lock_bench_exit);

MODULE_DESCRIPTION("what a contended mutex takes");
MODULE_LICENSE("Dual MIT/GPL");
