// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Lets a stock kernel use Skete's preempt hint (guest_abi::pv).
 *
 * Who waits for a mutex spins while its owner runs, and who waits for its turn to spin spins too
 * (mutex_spin_on_owner, osq_lock). Both ask whether the other's vCPU has lost its core, and on
 * arm64 the answer is compiled in: no (vcpu_is_preempted, include/linux/sched.h). This module puts
 * functions in place of the two, by ftrace, that look at the hint: a waiter sleeps instead, and
 * its core is free for whoever has none.
 *
 * A hint may be old. It decides between spinning and sleeping, both of which are right.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/arm-smccc.h>
#include <linux/ftrace.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/osq_lock.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <asm/cputype.h>

/* The vendor service (SMCCC owner 6): who it is, and the one call that is used. */
#define VENDOR_UID	0x8600ff01
#define PREEMPT_INFO	0xc6000010

static const u32 uid[4] = { 0x524c1f6f, 0x6e4b0a9d, 0x1e5a378c, 0xc8b2940d };

/* What a mutex keeps in the lowest bits of its owner (kernel/locking/mutex.c). */
#define MUTEX_FLAGS	0x07UL

/* Of each CPU of Linux's: the byte of its vCPU's line that has the hint. */
static DEFINE_PER_CPU(const u8 *, hint);
/* The bit of that byte. */
static u8 mask;
/* How often a waiter slept since the vCPU it waited for had lost its core. */
static DEFINE_PER_CPU(unsigned long, slept);

static bool is_preempted(int cpu)
{
	return READ_ONCE(*per_cpu(hint, cpu)) & mask;
}

/* mutex_spin_on_owner: whether the mutex has another owner now, and it is worth a try. */
static bool spin_on_owner(struct mutex *lock, struct task_struct *owner)
{
	while ((atomic_long_read(&lock->owner) & ~MUTEX_FLAGS) == (unsigned long)owner) {
		/* The owner may be gone: its task is not freed while preemption is disabled. */
		barrier();
		if (!READ_ONCE(owner->on_cpu) || need_resched())
			return false;
		if (is_preempted(task_cpu(owner))) {
			this_cpu_inc(slept);
			return false;
		}
		cpu_relax();
	}
	return true;
}

/*
 * osq_lock: whether it is this CPU's turn to spin. Without a queue, since in a queue all wait for
 * the first that has lost its core. What is taken here osq_unlock gives back, and who is in the
 * queue from before gets its turn: an empty queue and this one's holder look the same to it.
 */
static bool queue_lock(struct optimistic_spin_queue *lock)
{
	int self = smp_processor_id() + 1;
	int holder;

	for (;;) {
		holder = atomic_read(&lock->tail);
		if (holder == OSQ_UNLOCKED_VAL) {
			if (atomic_cmpxchg_acquire(&lock->tail, OSQ_UNLOCKED_VAL, self) ==
			    OSQ_UNLOCKED_VAL)
				return true;
			continue;
		}
		if (need_resched())
			return false;
		if (is_preempted(holder - 1)) {
			this_cpu_inc(slept);
			return false;
		}
		cpu_relax();
	}
}

/* From Linux 6.2 on arm64's ftrace keeps arguments only, before all registers. */
#ifdef CONFIG_DYNAMIC_FTRACE_WITH_ARGS
#define REPLACES FTRACE_OPS_FL_IPMODIFY
#define argument(fregs, n) ftrace_regs_get_argument(fregs, n)
#define go_to(fregs, function) \
	ftrace_regs_set_instruction_pointer(fregs, (unsigned long)(function))
#else
#define REPLACES (FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_SAVE_REGS)
#define argument(fregs, n) (ftrace_get_regs(fregs)->regs[n])
#define go_to(fregs, function) (ftrace_get_regs(fregs)->pc = (unsigned long)(function))
#endif

static void to_spin_on_owner(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
			     struct ftrace_regs *fregs)
{
	/* Wound/wait mutexes have rules of their own. */
	if (!argument(fregs, 2))
		go_to(fregs, spin_on_owner);
}

static void to_queue_lock(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
			  struct ftrace_regs *fregs)
{
	go_to(fregs, queue_lock);
}

static struct ftrace_ops owner_ops = { .func = to_spin_on_owner, .flags = REPLACES };
static struct ftrace_ops queue_ops = { .func = to_queue_lock, .flags = REPLACES };

static int put_in_place(struct ftrace_ops *ops, char *name)
{
	int error = ftrace_set_filter(ops, name, strlen(name), 1);

	if (!error)
		error = register_ftrace_function(ops);
	if (error)
		pr_err("%s cannot be replaced in this kernel: %d\n", name, error);
	return error;
}

static void take_back(struct ftrace_ops *ops)
{
	unregister_ftrace_function(ops);
	/* Both functions run with preemption disabled: when this returns nobody is in them. */
	synchronize_rcu();
}

static int slept_get(char *buffer, const struct kernel_param *param)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu(slept, cpu);
	return sysfs_emit(buffer, "%lu\n", sum);
}

static const struct kernel_param_ops slept_ops = { .get = slept_get };

module_param_cb(slept, &slept_ops, NULL, 0444);
MODULE_PARM_DESC(slept, "how often a waiter slept since the other's vCPU had lost its core");

static const u8 *window;

/* Each CPU says which vCPU it is: sixteen to an Aff1. */
static void find_hint(void *first)
{
	unsigned long stride = *(unsigned long *)first;
	u64 mpidr = read_cpuid_mpidr();
	unsigned int number = MPIDR_AFFINITY_LEVEL(mpidr, 0) + 16 * MPIDR_AFFINITY_LEVEL(mpidr, 1);

	__this_cpu_write(hint, window + number * stride);
}

static int __init skete_hint_init(void)
{
	struct arm_smccc_res res;
	unsigned long base, stride, offset;
	int cpu, error;

	if (arm_smccc_1_1_get_conduit() != SMCCC_CONDUIT_HVC)
		return -ENODEV;
	arm_smccc_1_1_hvc(VENDOR_UID, &res);
	if ((u32)res.a0 != uid[0] || (u32)res.a1 != uid[1] || (u32)res.a2 != uid[2] ||
	    (u32)res.a3 != uid[3]) {
		pr_err("the hypervisor is not Skete\n");
		return -ENODEV;
	}
	arm_smccc_1_1_hvc(PREEMPT_INFO, &res);
	if (res.a0) {
		pr_err("this VM is not given preempt hints\n");
		return -ENODEV;
	}
	base = res.a1;
	stride = res.a2;
	offset = lower_32_bits(res.a3);
	mask = upper_32_bits(res.a3);

	if (num_online_cpus() != num_present_cpus()) {
		pr_err("every CPU must be online\n");
		return -EBUSY;
	}
	window = memremap(base, stride * num_present_cpus(), MEMREMAP_WB);
	if (!window)
		return -ENOMEM;
	/* CPUs that are never there have lost no core. */
	for_each_possible_cpu(cpu)
		per_cpu(hint, cpu) = window + offset;
	window += offset;
	on_each_cpu(find_hint, &stride, 1);
	window -= offset;

	error = put_in_place(&owner_ops, "mutex_spin_on_owner");
	if (error)
		goto unmap;
	error = put_in_place(&queue_ops, "osq_lock");
	if (error)
		goto owner;
	pr_info("mutexes of %u CPUs use Skete's preempt hint\n", num_present_cpus());
	return 0;
owner:
	take_back(&owner_ops);
unmap:
	memunmap((void *)window);
	return error;
}

static void __exit skete_hint_exit(void)
{
	take_back(&queue_ops);
	take_back(&owner_ops);
	memunmap((void *)window);
}

module_init(skete_hint_init);
module_exit(skete_hint_exit);

MODULE_DESCRIPTION("Skete's preempt hint for mutexes of a stock kernel");
MODULE_LICENSE("Dual MIT/GPL");
