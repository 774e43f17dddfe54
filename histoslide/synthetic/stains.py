"""Stains: how much haematoxylin and eosin each part of a lymph node takes up."""

from __future__ import annotations

import math

import numpy as np

from histoslide.synthetic.anatomy import Anatomy
from histoslide.synthetic.carcinoma import Carcinoma
from histoslide.synthetic.field import Field, blurred, noise
from histoslide.synthetic.nuclei import nucleus_stamps, press
from histoslide.synthetic.sites import cut_into_cells, pixel_of, scattered_over


def stain_ground(
    anatomy: Anatomy, carcinoma: Carcinoma, mpp: float, rng: np.random.Generator
) -> tuple[Field, Field]:
    """Concentrations of haematoxylin and eosin in everything but nuclei."""
    shape, depth_um = anatomy.depth_um.shape, anatomy.depth_um
    fine = noise((shape[0], shape[1]), 2.4 / mpp, rng)
    patchy = noise((shape[0], shape[1]), 8 / mpp, rng)
    coarse = noise((shape[0], shape[1]), 35 / mpp, rng)
    fibres = np.sin(depth_um / 0.9 + 3 * coarse + patchy)
    pulp = np.clip(0.15 + 0.06 * fine + 0.05 * patchy + 0.02 * coarse, 0.02, None)
    strands = 0.03 + 0.13 * np.clip(1 - np.abs(patchy) / 0.35, 0, 1)
    eosin = pulp + (strands - pulp) * anatomy.sinus
    haematoxylin = 0.05 + 0.04 * np.clip(fine, 0, None) * (1 - anatomy.sinus)
    haematoxylin += 0.05 * anatomy.follicle
    capsule = np.clip((15 + 4 * coarse - depth_um) / 2, 0, 1)
    eosin += capsule * (0.28 + 0.08 * fibres + 0.05 * fine - eosin)
    membrane = np.clip(1.6 - carcinoma.membrane_um, 0, 1)
    body = 0.18 + 0.03 * fine + 0.035 * patchy + 0.02 * coarse + 0.07 * membrane
    eosin = np.where(carcinoma.mask, body, eosin)
    haematoxylin = np.where(carcinoma.mask, 0.11 + 0.025 * fine + 0.03 * membrane, haematoxylin)
    inside = np.clip(depth_um / (0.7 * mpp) + 0.5, 0, 1)
    return (
        np.asarray(haematoxylin * inside, np.float32),
        np.asarray(np.clip(eosin, 0, None) * inside, np.float32),
    )


def stain_fat(
    anatomy: Anatomy,
    haematoxylin: Field,
    eosin: Field,
    mpp: float,
    rng: np.random.Generator,
) -> None:
    """Add thin septa around empty vacuoles, and the flat nuclei pressed against them, in place."""
    cells = cut_into_cells(anatomy.fat > -0.3, 58.0 / mpp, rng)
    row, column = pixel_of(cells.sites, anatomy.fat.shape)
    vacuoles = (anatomy.fat[row, column] > 0)[cells.owner] & (anatomy.depth_um[cells.box] < 0)
    rounded_um = blurred(cells.border, 4 / mpp) * mpp
    wall = np.clip(np.maximum(2.6 - cells.border * mpp, (6.0 - rounded_um) / 2), 0, 1) * vacuoles
    eosin[cells.box] += 0.24 * wall
    haematoxylin[cells.box] += 0.04 * wall
    sites = scattered_over(np.where(wall > 0.9, 0.25, 0.0), 14 / mpp, rng)
    sites += np.array([cells.box[0].start, cells.box[1].start], np.float32)
    stamps = nucleus_stamps(64, mpp, rng, length_um=(5.0, 8.0), aspect=(0.25, 0.45), chromatin=0.7)
    press(haematoxylin, stamps, sites, rng.integers(64, size=len(sites)))


def stain_nuclei(
    anatomy: Anatomy,
    carcinoma: Carcinoma,
    haematoxylin: Field,
    mpp: float,
    rng: np.random.Generator,
) -> None:
    """Add the nuclei of lymphocytes, centroblasts, fibroblasts and carcinoma in place."""
    depth_um, shape = anatomy.depth_um, anatomy.depth_um.shape
    crowding = np.clip(0.86 + 0.09 * noise((shape[0], shape[1]), 40 / mpp, rng), 0, 1)
    pulp = crowding * (1 - 0.85 * anatomy.sinus) * (1 - 0.55 * anatomy.follicle)
    room = np.where(depth_um > 17, pulp, np.where(depth_um > 5, 0.04, 0))
    lymphocytes = scattered_over(np.where(carcinoma.mask, 0.02, room), 6.9 / mpp, rng)
    stamps = nucleus_stamps(256, mpp, rng, length_um=(5.8, 7.4), aspect=(0.75, 1.0), chromatin=0.72)
    press(haematoxylin, stamps, lymphocytes, rng.integers(256, size=len(lymphocytes)))

    centre = np.where(carcinoma.mask, 0, anatomy.follicle * (1 - anatomy.sinus))
    blasts = scattered_over(0.8 * centre * (depth_um > 20), 11 / mpp, rng)
    stamps = nucleus_stamps(
        128, mpp, rng, length_um=(7.0, 9.5), aspect=(0.7, 0.95), chromatin=0.42, vesicular=True
    )
    press(haematoxylin, stamps, blasts, rng.integers(128, size=len(blasts)))

    capsule = (depth_um > 2) & (depth_um < 16)
    fibroblasts = scattered_over(np.where(capsule, 0.5, 0.0), 11 / mpp, rng)
    stamps = nucleus_stamps(180, mpp, rng, length_um=(9.0, 13.0), aspect=(0.16, 0.3), chromatin=0.6)
    row, column = pixel_of(fibroblasts, shape)
    turn = anatomy.tangent[row, column] + rng.normal(0, 0.15, len(row))
    press(haematoxylin, stamps, fibroblasts, (turn / math.pi * 180).astype(np.intp) % 180)

    stamps = nucleus_stamps(
        256, mpp, rng, length_um=(10.0, 14.5), aspect=(0.6, 0.95), chromatin=0.40, vesicular=True
    )
    press(haematoxylin, stamps, carcinoma.sites, rng.integers(256, size=len(carcinoma.sites)))
