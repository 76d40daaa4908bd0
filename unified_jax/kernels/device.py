"""The device that a program is traced for."""

import jax


def device() -> tuple[str, str]:
    """(platform, kind) of the device that the program is traced for."""
    found = jax.sharding.get_abstract_mesh().abstract_device
    if found is not None and found.platform is not None:
        return "gpu" if found.platform == "cuda" else found.platform, str(found.device_kind)
    return jax.devices()[0].platform, jax.devices()[0].device_kind
