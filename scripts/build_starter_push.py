"""The push task of the starter suite: a driven tip pushes a box of unknown mass and friction over a plane.

Simulated with MuJoCo 4.0.0, pictures drawn without a renderer. `build_starter.py --tasks push` runs it. The same
seed gives the same numbers on the same kind of processor; another one may round differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

NUM_EPISODES = 1600
NUM_SAMPLES = 16  # per episode, SUBSTEPS * TIMESTEP = 0.2 s apart
SUBSTEPS = 40
TIMESTEP = 0.005
WORKSPACE = 0.20  # half width, metres
IMAGE_SIZE = 16
SUPERSAMPLING = 5  # points per pixel and axis
TIP_RADIUS = 0.012
BOX_HALF_HEIGHT = 0.025
BLACKOUT = 0.7  # share of the frames in which the camera is off
BLIND_SAMPLES = 5  # frames at the end in which it always is
NOISE = {"force": [0.10], "proprioception": [5e-4, 5e-4, 1e-3, 1e-3]}

_SCENE = """<mujoco><option timestep="{timestep}" gravity="0 0 -9.81"
 integrator="implicitfast" cone="elliptic" impratio="3"/>
<worldbody>
 <geom name="plane" type="plane" size="1 1 .1" friction="{friction} 0.005 0.0001"/>
 <body name="box" pos="{x} {y} {half_height}" quat="{quaternion_w} 0 0 {quaternion_z}"><freejoint/>
  <geom name="box" type="box" size="{half_length} {half_width} {half_height}" mass="{mass}"
   friction="{friction} 0.005 0.0001"/></body>
 <body name="tip" pos="{tip_x} {tip_y} 0.03">
  <joint name="x" type="slide" axis="1 0 0" damping="1"/><joint name="y" type="slide" axis="0 1 0" damping="1"/>
  <geom name="tip" type="cylinder" size="{tip_radius} 0.025" mass="0.4" friction="0.4 0.005 0.0001"/></body>
</worldbody>
<actuator><velocity joint="x" kv="80.0" ctrlrange="-.2 .2"/>
 <velocity joint="y" kv="80.0" ctrlrange="-.2 .2"/></actuator>
</mujoco>"""


@dataclass
class Episode:
    """What one push leaves behind.

    Args:
        image: (16, 16, 16) uint8, frames from above; row 0 is the far side.
        force: (16, 4) mean contact force fx, fy, fz and its size, newtons.
        proprioception: (16, 4) x, y, vx, vy of the tip, metres and metres per second.
        control: (16, 2) commanded vx, vy, metres per second.
        final_position: (2,) x, y of the box after the last sample, metres.
    """

    image: np.ndarray
    force: np.ndarray
    proprioception: np.ndarray
    control: np.ndarray
    final_position: np.ndarray


@dataclass
class Plan:
    """What is drawn at random before a push begins."""

    half_length: float
    half_width: float
    yaw: float
    x: float
    y: float
    friction: float
    mass: float
    tip_x: float
    tip_y: float
    heading: float
    turn: float
    speed: float
    stop: int

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> Plan:
        """A random plan. The order of the draws is part of the data: do not change it."""
        half_length, half_width = generator.uniform(0.015, 0.05, 2)
        yaw = generator.uniform(-np.pi, np.pi)
        x, y = generator.uniform(-0.09, 0.09, 2)
        friction = generator.uniform(0.15, 0.7)
        mass = np.exp(generator.uniform(np.log(0.1), np.log(0.9)))
        angle = generator.uniform(-np.pi, np.pi)
        distance = generator.uniform(0.065, 0.115)
        offset = generator.normal(0, 0.36)
        speed = generator.uniform(0.05, 0.10)
        turn = generator.normal(0, 0.07)
        stop = NUM_SAMPLES if generator.random() < 0.6 else generator.integers(8, NUM_SAMPLES)
        tip_x, tip_y = x - distance * np.cos(angle), y - distance * np.sin(angle)
        return cls(
            half_length, half_width, yaw, x, y, friction, mass, tip_x, tip_y, angle + offset, turn, speed, int(stop)
        )

    def scene(self) -> str:
        """The MuJoCo model of this plan."""
        return _SCENE.format(
            timestep=TIMESTEP,
            friction=self.friction,
            x=self.x,
            y=self.y,
            half_length=self.half_length,
            half_width=self.half_width,
            half_height=BOX_HALF_HEIGHT,
            mass=self.mass,
            tip_x=self.tip_x,
            tip_y=self.tip_y,
            tip_radius=TIP_RADIUS,
            quaternion_w=np.cos(self.yaw / 2),
            quaternion_z=np.sin(self.yaw / 2),
        )


def draw_frame(box: np.ndarray, yaw: float, half_length: float, half_width: float, tip: np.ndarray) -> np.ndarray:
    """The scene from above, (16, 16) uint8: plane 20, box 150, tip 255, averaged over 5 x 5 points per pixel."""
    points = IMAGE_SIZE * SUPERSAMPLING
    grid = (np.arange(points) + 0.5) / points * 2 * WORKSPACE - WORKSPACE
    x, y = np.meshgrid(grid, -grid)
    from_box_x, from_box_y = x - box[0], y - box[1]
    cosine, sine = np.cos(yaw), np.sin(yaw)
    inside = (abs(cosine * from_box_x + sine * from_box_y) <= half_length) & (
        abs(-sine * from_box_x + cosine * from_box_y) <= half_width
    )
    on_tip = (x - tip[0]) ** 2 + (y - tip[1]) ** 2 <= TIP_RADIUS**2
    fine = np.where(on_tip, 255.0, np.where(inside, 150.0, 20.0))
    blocks = fine.reshape(IMAGE_SIZE, SUPERSAMPLING, IMAGE_SIZE, SUPERSAMPLING)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def contact_force(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Force between box and tip in the world's axes and its size, (4,) newtons, summed over the contacts."""
    pair = {model.geom("box").id, model.geom("tip").id}
    total, wrench = np.zeros(4), np.zeros(6)
    for index in range(data.ncon):
        contact = data.contact[index]
        if {contact.geom1, contact.geom2} == pair:
            mujoco.mj_contactForce(model, data, index, wrench)
            force = contact.frame.reshape(3, 3).T @ wrench[:3]
            total[:3] += force if contact.geom2 == model.geom("tip").id else -force
            total[3] += np.linalg.norm(force)
    return total


def simulate(generator: np.random.Generator) -> Episode:
    """One push from a random start."""
    plan = Plan.drawn(generator)
    model = mujoco.MjModel.from_xml_string(plan.scene())
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    images, forces, states, controls = [], [], [], []
    heading = plan.heading
    for sample in range(NUM_SAMPLES):
        heading += plan.turn + generator.normal(0, 0.04)
        speed = plan.speed * (1 + generator.normal(0, 0.1)) * (sample < plan.stop)
        command = np.array([speed * np.cos(heading), speed * np.sin(heading)])
        data.ctrl[:] = command
        quaternion = data.body("box").xquat
        yaw = 2 * np.arctan2(quaternion[3], quaternion[0])
        images.append(draw_frame(data.body("box").xpos, yaw, plan.half_length, plan.half_width, data.body("tip").xpos))
        force = np.zeros(4)
        for _ in range(SUBSTEPS):
            mujoco.mj_step(model, data)
            force += contact_force(model, data)
        forces.append(force / SUBSTEPS + generator.normal(0, 1, 4) * NOISE["force"])
        state = np.concatenate([data.body("tip").xpos[:2], data.qvel[-2:]])
        states.append(state + generator.normal(0, 1, 4) * NOISE["proprioception"])
        controls.append(command)
    final = data.body("box").xpos[:2].copy()
    return Episode(np.stack(images), np.stack(forces), np.stack(states), np.stack(controls), final)


def push_columns(seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of the push task, 1600 rows; episodes in which the box leaves the workspace are drawn again."""
    generator = np.random.default_rng(seed)
    episodes: list[Episode] = []
    while len(episodes) < NUM_EPISODES:
        episode = simulate(generator)
        position = episode.final_position
        if not np.isfinite(position).all() or abs(position).max() > WORKSPACE * 0.95:
            continue
        camera_on = generator.random(NUM_SAMPLES) > BLACKOUT
        camera_on[0] = True
        camera_on[NUM_SAMPLES - BLIND_SAMPLES :] = False
        episode.image = episode.image * camera_on[:, None, None].astype(np.uint8)
        episodes.append(episode)
    columns = {
        name: np.array([getattr(episode, name) for episode in episodes])
        for name in ("image", "force", "proprioception", "control")
    }
    columns["target"] = np.array([episode.final_position for episode in episodes]) * 10  # decimetres
    return columns


__all__ = ["NUM_EPISODES", "push_columns"]
