"""Foraging: a small procedural pixel world with an expert of its own, for the quickstart and the tests."""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

CELL = 4  # pixels that a move shifts the forager: half its width, plain to see between two frames
N_CELLS = 7  # positions along each side; sprites are 2 cells wide, so the picture has (7 + 1) * 4 = 32 pixels
SPRITE = 2 * CELL
MAX_THORNS = 4
MOVES = np.array([(0, -1), (0, 1), (-1, 0), (1, 0)])  # (rows, columns): left, right, up, down


def _sprite(color: tuple[int, int, int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A disc: mask and colors, each (SPRITE, SPRITE, 3)."""
    rows, columns = np.mgrid[:SPRITE, :SPRITE] - (SPRITE - 1) / 2
    mask = np.repeat((rows**2 + columns**2 <= radius**2)[..., None], 3, axis=2)
    return mask, np.broadcast_to(np.array(color, np.uint8), mask.shape)


FORAGER, FRUIT, THORN = _sprite((245, 245, 245), 3.6), _sprite((230, 40, 40), 3.2), _sprite((150, 40, 200), 3.9)


class ForagingEnv(gym.Env[np.ndarray, np.int64]):
    """
    Walk to the red fruit (+1), which then grows elsewhere, and keep off the purple thorns (-0.25 for each step on one).

    Every episode is another level: ground, thorns and fruit are drawn anew, so that nothing can be learned by heart.
    Observations are pictures (32, 32, 3) uint8; the actions are left, right, up, down; an episode is truncated after
    ``episode_length`` steps. The expert eats a fruit every 4 steps.

    :param episode_length: steps of an episode
    :param n_thorns: patches of thorns in a level, at most ``MAX_THORNS``
    :param render_mode: None or "rgb_array"
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    _distances: np.ndarray | None  # (N_CELLS, N_CELLS) steps to the fruit

    def __init__(self, episode_length: int = 60, n_thorns: int = 2, render_mode: str | None = None):
        if not 0 <= n_thorns <= MAX_THORNS:
            raise ValueError(f"n_thorns is {n_thorns}, expected 0 to {MAX_THORNS}: more would leave no room to walk.")
        self.observation_space = spaces.Box(0, 255, (CELL * (N_CELLS + 1),) * 2 + (3,), np.uint8)
        self.action_space = spaces.Discrete(len(MOVES))
        self.episode_length = episode_length
        self.n_thorns = n_thorns
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.forager = np.array((-N_CELLS, -N_CELLS))  # nowhere yet, so that it keeps no cell from being free
        self._grow_thorns()
        self.forager = self._free_cell()
        self._grow_fruit()
        self._ground = self._draw_ground()
        return self._picture(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.forager = np.clip(self.forager + MOVES[action], 0, N_CELLS - 1)
        reward = -0.25 * float(self.thorny[tuple(self.forager)])
        if np.abs(self.forager - self.fruit).max() < 2:
            reward += 1.0
            self._grow_fruit()
        self.steps += 1
        return self._picture(), reward, False, self.steps >= self.episode_length, {}

    def render(self) -> np.ndarray | None:
        return self._picture() if self.render_mode == "rgb_array" else None

    def expert_action(self) -> int:
        """First move of a shortest way to the fruit that keeps off the thorns, the longer axis first."""
        if self._distances is None:
            self._distances = self._distances_from(tuple(self.fruit))
        gap = self.fruit - self.forager
        along = 0 if abs(gap[0]) > abs(gap[1]) else 1
        cells = self.forager + MOVES
        inside = ((cells >= 0) & (cells < N_CELLS)).all(1)
        costs = [self._distances[tuple(cell)] if ok else np.inf for cell, ok in zip(cells, inside, strict=True)]
        return int(np.lexsort((MOVES[:, along] == 0, costs))[0])

    def _distances_from(self, start: tuple[int, ...]) -> np.ndarray:
        """(N_CELLS, N_CELLS) steps to each cell without touching thorns, breadth first; infinite if there is no way."""
        distances = np.full((N_CELLS, N_CELLS), np.inf)
        distances[start] = 0
        queue = deque([start])
        while queue:
            cell = queue.popleft()
            for move in MOVES:
                near = (cell[0] + move[0], cell[1] + move[1])
                inside = 0 <= near[0] < N_CELLS and 0 <= near[1] < N_CELLS
                if inside and not self.thorny[near] and distances[near] == np.inf:
                    distances[near] = distances[cell] + 1
                    queue.append(near)
        return distances

    def _grow_thorns(self) -> None:
        """Draw thorns until every free cell can be reached from every other, and there are enough of them."""
        connected = False
        while not connected:
            self.thorns = self.np_random.integers(N_CELLS, size=(self.n_thorns, 2))
            # Sprites are two cells wide: whoever is less than two cells away in both directions overlaps.
            offsets = np.abs(np.indices((N_CELLS, N_CELLS)).transpose(1, 2, 0)[:, :, None] - self.thorns)
            self.thorny = (offsets < 2).all(-1).any(-1)  # (N_CELLS, N_CELLS)
            free = np.argwhere(~self.thorny)
            # A forager reaches 5 x 5 cells: with more than these free, a fruit always finds a place beyond.
            connected = len(free) > 25 and np.isfinite(self._distances_from(tuple(free[0]))[~self.thorny]).all()

    def _grow_fruit(self) -> None:
        self.fruit = self._free_cell()
        self._distances = None  # found when the expert first asks

    def _free_cell(self) -> np.ndarray:
        """A random cell (2,) clear of thorns and out of the forager's reach."""
        rows, columns = np.ogrid[:N_CELLS, :N_CELLS]
        near = (np.abs(rows - self.forager[0]) <= 2) & (np.abs(columns - self.forager[1]) <= 2)
        return self.np_random.choice(np.argwhere(~self.thorny & ~near))

    def _draw_ground(self) -> np.ndarray:
        """The level's picture without forager and fruit: a dim colour with a coarse pattern, and the thorns."""
        size = N_CELLS + 1
        color = self.np_random.integers(20, 90, size=3)
        pattern = self.np_random.integers(-12, 13, size=(size, size, 1))
        ground = np.repeat(np.repeat(np.clip(color + pattern, 0, 255), CELL, 0), CELL, 1).astype(np.uint8)
        for cell in self.thorns:
            self._blit(ground, cell, THORN)
        return ground

    def _picture(self) -> np.ndarray:
        picture = self._ground.copy()
        self._blit(picture, self.fruit, FRUIT)
        self._blit(picture, self.forager, FORAGER)
        return picture

    @staticmethod
    def _blit(picture: np.ndarray, cell: np.ndarray, sprite: tuple[np.ndarray, np.ndarray]) -> None:
        row, column = cell * CELL
        mask, color = sprite
        np.copyto(picture[row : row + SPRITE, column : column + SPRITE], color, where=mask)
