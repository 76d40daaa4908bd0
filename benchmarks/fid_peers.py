"""FID, KID and Inception score beside torch-fidelity's and clean-fid's, on the same files with the same weights.

    python benchmarks/fid_peers.py --peers PYTHON

PYTHON has torch, torchvision, scipy, safetensors, torch-fidelity, pytorch-fid and clean-fid. The pictures are 120 of
the world's, of several sizes, some grey, some JPEG; the weights are random numbers of Inception's shapes (those of the
reference files), so nothing is fetched. Writes benchmarks/results/fid_peers.json. Two cores, about six minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from safetensors.numpy import save_file

import unified_jax as uj
from unified_jax.certify.inception import stored_weights

RESULT = Path(__file__).parent / "results" / "fid_peers.json"
THEIRS = """
import json, sys
import numpy as np, torch, torch_fidelity
from safetensors.torch import load_file
a, b, weights, out = sys.argv[1:]
state = load_file(weights)
torch.save(state, weights + ".pth")
torch.set_num_threads(1)
found = torch_fidelity.calculate_metrics(
    input1=b, input2=a, fid=True, kid=True, isc=True, kid_subset_size=50, kid_subsets=20, isc_splits=5, batch_size=1,
    feature_extractor_weights_path=weights + ".pth", cuda=False, verbose=False, cache=False, samples_find_deep=False,
)
import pytorch_fid.inception as source
source.load_state_dict_from_url = lambda *a, **k: state
network = source.InceptionV3([3], resize_input=False, normalize_input=False).eval()
from cleanfid import fid
clean = fid.compute_fid(
    a, b, mode="clean", custom_feat_extractor=lambda x: network((x - 128) / 128)[0].flatten(1), num_workers=0,
    batch_size=8, device=torch.device("cpu"), use_dataparallel=False, verbose=False,
)
found = {
    "torch-fidelity fid": found["frechet_inception_distance"],
    "torch-fidelity kid": found["kernel_inception_distance_mean"],
    "torch-fidelity inception_score": found["inception_score_mean"],
    "clean-fid fid": clean,
}
json.dump({name: float(value) for name, value in found.items()}, open(out, "w"))
"""


def write_pictures(folder: Path, first: int) -> None:
    """Sixty pictures: cut to many sizes, every fifth grey, every fourth a JPEG."""
    source = uj.World(resolution=64).source("test", ("image",))
    rng = np.random.default_rng(first)
    folder.mkdir()
    for i in range(60):
        picture = Pillow.fromarray(source[first + i]["image"])
        if i % 3:
            wide, high = rng.integers(20, 64, 2)
            picture = picture.crop((0, 0, int(wide), int(high)))
        picture = picture.convert("L") if i % 5 == 0 else picture
        picture.save(folder / f"{i:03d}.{'jpg' if i % 4 == 0 else 'png'}")


def ours(a: Path, b: Path, weights: Path, *flags: str) -> dict[str, float]:
    """Metric -> value of `unified-jax distance`."""
    out = a.parent / "ours.json"
    words = [str(a), str(b), "--inception", str(weights), "--no-pixels", "--no-intervals", "--cache", "none"]
    command = [sys.executable, "-m", "unified_jax", "distance", *words, "--out", str(out), *flags]
    subprocess.run(command, check=True, capture_output=True)
    return {row["metric"]: row["value"] for row in json.loads(out.read_text())["rows"]}


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="python of an environment with the peers")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        a, b, weights = folder / "a", folder / "b", folder / "weights.safetensors"
        write_pictures(a, 0)
        write_pictures(b, 100)
        save_file({k: np.ascontiguousarray(v) for k, v in stored_weights(0).items()}, weights)
        told = [str(a), str(b), str(weights), str(folder / "theirs.json")]
        subprocess.run([options.peers, "-c", THEIRS, *told], check=True, capture_output=True)
        theirs: dict[str, float] = json.loads((folder / "theirs.json").read_text())
        rule = ("--preprocessing", "torch_fidelity", "--rule", "torch_fidelity", "--subset", "50", "--subsets", "20")
        fidelity = ours(a, b, weights, *rule, "--score-splits", "5")
        clean = ours(a, b, weights, "--preprocessing", "clean", "--metrics", "frechet")
    rows: list[dict[str, Any]] = []
    for what, value in theirs.items():
        peer, metric = what.split()
        mine = (fidelity if peer == "torch-fidelity" else clean)[metric]
        rows.append({"peer": peer, "metric": metric, "theirs": value, "ours": mine, "ratio": mine / value})
        print(f"{peer:15} {metric:16} {value:.9g} {mine:.9g}")
    options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
