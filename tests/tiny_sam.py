"""Small SAM and SAM 2 with random weights, saved as a user's checkpoints are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIDE = 64
"""Pixels along a side of the pictures that both see."""


def save_sam(folder: Path) -> Path:
    """Write a SAM of two layers of width 16 and return its folder."""
    from transformers import SamConfig, SamModel

    vision = {
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32},
        **{"image_size": SIDE, "patch_size": 8, "output_channels": 16, "num_pos_feats": 8},
        **{"window_size": 3, "global_attn_indexes": [1]},
    }
    config = SamConfig(vision_config=vision, **_decoding(patch=8))
    return _save(SamModel, config, folder)


def save_sam2(folder: Path) -> Path:
    """Write a SAM 2 of four stages of width 16 to 128 and return its folder."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    widths = [16, 32, 64, 128]
    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=16,
    )
    config = Sam2Config(vision_config=vision, **_decoding(patch=16))
    return _save(Sam2Model, config, folder)


def _decoding(patch: int) -> dict[str, dict[str, int]]:
    sizes = {"image_size": SIDE, "patch_size": patch, "mask_input_channels": 4}
    decoder = {"mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return {
        "prompt_encoder_config": {"hidden_size": 16, **sizes},
        "mask_decoder_config": {"hidden_size": 16, **decoder},
    }


def _save(architecture: Any, config: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = architecture(config)
        # The usual initial values are so small that no answer would depend on its prompt.
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 and len(parameter) > 1 else 16
            parameter.add_(torch.randn(parameter.shape), alpha=1.5 / fan_in**0.5)
    model.save_pretrained(folder)
    return folder
