from pathlib import Path

from setuptools import find_namespace_packages, setup

CONFIGS = {"duo_ext.configs": "configs/duo", "sedd_ext.configs": "configs/sedd"}
EVAL = ["matplotlib>=3.8"]
ADAPTERS = ["peft>=0.21"]
TEST = ["pytest>=8", "pytest-xdist", "import-linter", "hypothesis>=6", "ruff==0.17.6"]
TEST += ["datasets", "setuptools>=70.1"]  # a remedy wraps the one, a wheel is built with the other
TEST += ADAPTERS

setup(
    name="idlm",
    version="0.1.0",
    description="Inverse-distilled diffusion language models for the Duo and SEDD codebases",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[
        *find_namespace_packages(include=["duo_ext*", "sedd_ext*", "hydra_plugins"]),
        *CONFIGS,
    ],
    package_dir=CONFIGS,
    package_data={"": ["**/*.yaml", "*.html", "*.json", "*.md", "*.xz", "*.ckpt", "*.safetensors"]},
    # Where no reason stands, the oldest release with which tests of what uses it were run.
    install_requires=[
        "torch>=2.6",  # get_total_norm
        "lightning>=2.6,!=2.6.2,!=2.6.3",  # fit(weights_only=)
        "hydra-core>=1.3.2",
        "omegaconf>=2.3,<2.4",
        "transformers>=4.43,<6",  # before, use_safetensors=True reads a pickle as well
        "tokenizers>=0.19",
        "huggingface_hub>=0.25",  # its errors are in huggingface_hub.errors
        "safetensors>=0.4.1",
        "numpy>=1.26",
        "fsspec>=2022.5",
        "tqdm>=4.57",
        *EVAL,
    ],
    extras_require={
        "duo": ["datasets", "einops", "requests", "rich", "scipy", "timm"],
        "sedd": ["datasets", "einops", "requests"],
        "flash": ["flash-attn"],
        "eval": ["mauve-text"],
        "adapters": ADAPTERS,
        "test": TEST,
    },
)
