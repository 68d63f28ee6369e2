/* QEMU plugin that counts the instructions a program executes and prints the total when it ends.
 *
 *     cc -shared -fPIC -DPLUGIN_API=1 count_plugin.c -o count.so
 *     qemu-aarch64 -plugin ./count.so,out=total.txt ./program
 *
 * The six functions used are the same in every version of the interface, so they are declared here
 * and no header of QEMU is needed; only the version number has to be one that QEMU accepts. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif

typedef uint64_t plugin_id;
struct qemu_plugin_tb; /* a run of instructions without a branch in it */
enum { REGISTERS_UNUSED = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
                                           void (*call)(plugin_id id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*call)(unsigned int cpu, void *data), int registers,
                                          void *data);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*call)(plugin_id id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_API;

static uint64_t total;
static char path[4096];

static void executed(unsigned int cpu, void *instructions) {
    (void)cpu;
    total += (uintptr_t)instructions;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
    void *const instructions = (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb);
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, REGISTERS_UNUSED, instructions);
}

static void ended(plugin_id id, void *data) {
    FILE *out = fopen(path, "w");
    (void)id;
    (void)data;
    if (!out) return;
    fprintf(out, "%llu\n", (unsigned long long)total);
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info,
                                                               int count, char **options) {
    (void)info;
    if (count != 1 || strncmp(options[0], "out=", 4) != 0 || strlen(options[0]) >= sizeof path) return 1;
    strcpy(path, options[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
