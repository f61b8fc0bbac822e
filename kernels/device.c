/* The list of device kinds, and opening one by name. Another kind is one line here. */
#include "kernels/device.h"

#include <string.h>

static const sp_device_kind *const kinds[] = {&sp_cpu_kind};

sp_status sp_device_open(const char *name, const sp_device_options *options, sp_device **out, sp_error *error)
{
    static const sp_device_options defaults = {0};
    *out = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(name, kinds[i]->name) == 0)
            return kinds[i]->open(options ? options : &defaults, out, error);
    }
    return sp_fail_param(error, SP_USAGE, "device", "there is no device \"%s\" in this build; use \"cpu\"",
                         name);
}

void sp_device_close(sp_device *device)
{
    if (device) device->kind->close(device);
}
