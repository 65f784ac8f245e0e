"""What numpy, OpenCV and torch make of the steps from a photo to an identity: values to compare with.

    python make_identity.py OUT      (numpy, opencv-python-headless, torch, safetensors)

photo.png                 a smooth random picture of 90 x 70 pixels
aligned.png               cv2.warpAffine of it, by the similarity that least squares finds between KEYPOINTS and ArcFace's template
resized.png               cv2.resize of it to 160 pixels in the longer side (bilinear), as a face detector gets it
keypoints-W-H.png         InfiniteYou's drawing of two sets of keypoints with cv2.ellipse2Poly, fillConvexPoly and circle
scrfd.safetensors         nine random outputs of a detector at 160 x 160 (scores.S, boxes.S, points.S by stride), and what insightface's rules keep of
                          them for a scale of 0.8: faces [n, 15] (left, top, right, bottom, score, ten coordinates), best first
arcface.pth               a random IR-SE network of facexlib's 24 units, 2 to 5 channels wide (its last layer is as wide as 49 times
                          the last stage, so a wider one would be most of this folder), as torch saves it
arcface.safetensors       crop [112, 112, 3] (red, green, blue, 0 to 255) and embedding [512], computed in f32"""
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from safetensors.numpy import save_file

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(5)
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
KEYPOINTS = np.array([[31.25, 30.5], [50.75, 22.25], [45.0, 40.125], [40.5, 53.75], [57.25, 47.5]])


def pictures():
    photo = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (90, 70), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(out / "photo.png"), photo)
    # Scale, turn and shift as the unknowns of one linear system.
    rows = np.zeros((10, 4))
    rows[0::2] = np.c_[KEYPOINTS[:, 0], -KEYPOINTS[:, 1], np.ones(5), np.zeros(5)]
    rows[1::2] = np.c_[KEYPOINTS[:, 1], KEYPOINTS[:, 0], np.zeros(5), np.ones(5)]
    a, b, x, y = np.linalg.lstsq(rows, TEMPLATE.reshape(-1), rcond=None)[0]
    cv2.imwrite(str(out / "aligned.png"), cv2.warpAffine(photo, np.array([[a, -b, x], [b, a, y]]), (112, 112), borderValue=0.0))
    cv2.imwrite(str(out / "resized.png"), cv2.resize(photo, (160, int(160 * (70 / 90)))))


def drawing(width, height, points):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    canvas = np.zeros((height, width, 3), np.uint8)
    for first, second in [(0, 2), (1, 2), (3, 2), (4, 2)]:
        (x0, y0), (x1, y1) = points[first], points[second]
        length = ((x0 - x1) ** 2 + (y0 - y1) ** 2) ** 0.5
        angle = int(np.degrees(np.arctan2(y0 - y1, x0 - x1)))
        polygon = cv2.ellipse2Poly((int((x0 + x1) / 2), int((y0 + y1) / 2)), (int(length / 2), 4), angle, 0, 360, 1)
        cv2.fillConvexPoly(canvas, polygon, colours[first])
    canvas = (canvas * 0.6).astype(np.uint8)
    for (x, y), colour in zip(points, colours):
        cv2.circle(canvas, (int(x), int(y)), 10, colour, -1)
    cv2.imwrite(str(out / f"keypoints-{width}-{height}.png"), cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))


def detections():
    side, scale, tensors, found = 160, np.float32(0.8), {}, []
    for stride in (8, 16, 32):
        cells = side // stride
        n = 2 * cells * cells
        scores = rng.uniform(0, 0.62, (n, 1)).astype(np.float32)
        boxes = rng.uniform(0.2, 3.5, (n, 4)).astype(np.float32)
        points = rng.uniform(-2, 2, (n, 10)).astype(np.float32)
        tensors |= {f"scores.{stride}": scores, f"boxes.{stride}": boxes, f"points.{stride}": points}
        centres = np.stack(np.mgrid[:cells, :cells][::-1], axis=-1).astype(np.float32).reshape(-1, 2) * stride
        centres = np.repeat(centres, 2, axis=0)
        d = boxes * stride
        corners = np.c_[centres - d[:, :2], centres + d[:, 2:]] / scale
        places = (points.reshape(n, 5, 2) * stride + centres[:, None]) / scale
        keep = np.where(scores[:, 0] >= 0.5)[0]
        found.append(np.c_[corners[keep], scores[keep], places[keep].reshape(-1, 10)])
    rows = np.concatenate(found).astype(np.float32)
    order = rows[rows[:, 4].argsort()[::-1]]
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        w = np.maximum(0, np.minimum(best[2], order[:, 2]) - np.maximum(best[0], order[:, 0]) + 1)
        h = np.maximum(0, np.minimum(best[3], order[:, 3]) - np.maximum(best[1], order[:, 1]) + 1)
        area = lambda r: (r[..., 2] - r[..., 0] + 1) * (r[..., 3] - r[..., 1] + 1)
        order = order[w * h / (area(best) + area(order) - w * h) <= 0.4]
    save_file(tensors | {"faces": np.stack(kept)}, out / "scrfd.safetensors")
    print(len(rows), "guesses,", len(kept), "faces")


class Unit(nn.Module):
    def __init__(self, inner, width, stride):
        super().__init__()
        short = nn.Sequential(nn.Conv2d(inner, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut_layer = nn.MaxPool2d(1, stride) if inner == width else short
        squeeze = nn.Module()
        squeeze.fc1, squeeze.fc2 = nn.Conv2d(width, 1, 1, bias=False), nn.Conv2d(1, width, 1, bias=False)
        self.res_layer = nn.Sequential(nn.BatchNorm2d(inner), nn.Conv2d(inner, width, 3, 1, 1, bias=False), nn.PReLU(width),
                                       nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), squeeze)

    def forward(self, x):
        y = self.res_layer[:5](x)
        gates = torch.sigmoid(self.res_layer[5].fc2(torch.relu(self.res_layer[5].fc1(y.mean((2, 3), keepdim=True)))))
        return self.shortcut_layer(x) + y * gates


class Network(nn.Module):
    def __init__(self, stages):
        super().__init__()
        first = stages[0][0]
        self.input_layer = nn.Sequential(nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first))
        units, inner = [], first
        for width, count in stages:
            for index in range(count):
                units.append(Unit(inner, width, 2 if index == 0 else 1))
                inner = width
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(nn.BatchNorm2d(inner), nn.Dropout(), nn.Flatten(), nn.Linear(inner * 49, 512), nn.BatchNorm1d(512))

    def forward(self, x):
        y = self.output_layer(self.body(self.input_layer(x)))
        return y / y.norm(2, 1, True)


def network():
    torch.manual_seed(6)
    net = Network([(2, 3), (3, 4), (4, 14), (5, 3)]).eval()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(-0.2, 0.4)
    torch.save(net.state_dict(), out / "arcface.pth")
    crop = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (112, 112))
    x = torch.from_numpy(crop[:, :, ::-1].copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    with torch.no_grad():
        embedding = net(x)[0].numpy()
    save_file({"crop": crop.astype(np.float32), "embedding": embedding}, out / "arcface.safetensors")


pictures()
drawing(96, 80, KEYPOINTS)
drawing(200, 240, np.array([[60.5, 80.9], [130.2, 70.1], [101.7, 120.3], [75.5, 170.2], [140.9, 150.6]]))
detections()
network()
