"""A palette of 512 colours, nine bits a pixel: iGPT, Chen et al. 2020, section 3.1.

    python -m eyespot.pretrain.images.color_palette SHARDS

fits such a palette to a shard folder's images by k-means, as PALETTE was to the train split of CIFAR-10, and prints it.
"""

import sys

import numpy as np
from jaxtyping import Float32, UInt8

NUM_COLORS = 512
NUM_IMAGES, SIDE = 2000, 32
"""What a palette is fitted to: so many images, their middles at so many pixels."""
PIXELS_PER_COLOR = 400

PALETTE = bytes.fromhex(
    """
    0202010406090c06031706030913040b0b0e130f0b040d1e1d12051011152a0a041c0d1216
    20051618110b1f1a111422221811291c0619191a3818051b271415360d0b1935171f271e21
    1e272115490c09251b1e321814293109342613262e1b2625252f241e1d2d27431f103d2d08
    1f2430103431253d163f1f212b2d2730252b1c254152270963120f352e21383816292c3241
    2c1b20501c0c27590b40432f3b2542420b31520c3d2d2933322e512320293b3125313f820c
    084c36183330393f3a2439481f6434084a34273e382f3739362136525c321b23493e79181c
    3a452f323c41463237484820355f1d30354c6a2625493d2f5c41183c3a4053402619752b55
    333217485d42413997170e495c185954103758303a4840115e544949324657294440433146
    523d404c2b3d624d413c623f2b6e401e774b0b5e502157463344533b474846335a488b2628
    5a403f1f44765354323f4b50504c3e6a383a0c61704570285761273d465f7c372f62503054
    464925368b4a4b5346554d2e56654f4f4b5a4f4084481f724a2f48673e674c3b5159457457
    243b7a3b566139ac1a2a667319d50d11b3301061583b3c497097540d59534d1040ab66662f
    4057654b555c594b596a464d6352485355555686245b72344169595161515f5b4a2c578272
    5243755b38813f48963b37695f418351365b6847155f975c5b564f536b66575351754b7e6a
    2a435878915a29595c602d73756f5c4b4e626965724374693d0a7e93b239316664525c853c
    5a6b5a6f7d346759617c535565635d7d60485aaa2289613c3b529a086ab56f6158726a4d4e
    7a636064679b7a175b617141648965775251647c90554c4672792e6d9681704076902dc714
    5aa63f517c6457767a47528e579f6335706c5bb3681d6a85496a6b6669666f917538746665
    657863606f727d7153896b4e575f8e2768b586873a798d445c6c83986c487574656f706f77
    8156456d9c7d70626c9e45b05848887c4c2383aaeb372e865f6b886c5d6a6e7e6d8d5c7b6d
    6f577e859a635d608e6d3e6db0aa743d0d8cc2867a5c71806c677b7b53759644908b757677
    7d796d93755d978b43977c52868c54d5553c897568879f4074b83d2e72c98086645b6aa564
    7592a67454727a857e9d58ba54667d7c7b88747891826486807175956e4a81ae9989597c87
    79c77640af834b6c8d85947a71a17966b897336d829514aec23998b46081a5899667828184
    db93195077c1929c5a8a827d7a838ca8855da09f4b7c779791897166b7709d856e6397971e
    82f2bb7e599a9168898f7b8db158a0b54196877b80908a967f85e229918b8988b571767a8c
    98a8975f86a476428ed0ab8a6c87889396a26cbc9455a7837b5c8bbe6890ae7788a7a29175
    97967b948f86a18d829091908a9f89a7b25ab6956ad4865b87939cbc8872ec87467c9ba2e1
    68719c8e90aaa170738bbead957ca197869db17064a2bb9fa47e93959b999a907999b4ca94
    698992ad6495d090b188af908bca679b3fbbd2bca968d0a559a49893bac253909ea2aa9e8a
    9c9d9abe9e78bf9185b3a0839ec771f5c222a692a2b3bd6c8ca2b1e3b746adb57f789ecca9
    a495879cc09fa2a3a3b091999fafa9a09fb59e967eaebd94b2a3b6aa8d53a6f66ab6cfd1a5
    79c1b27dc5a488eca066a6a7aaa1c88fababa293a9bee58e8879abd89eaab4b6ab9cc69f9a
    d9ba72b7a5aac2b095c5d46f8daccfb6be94b0b0ababaeb3ccba88a0a9c56db2f0b8d387d3
    ae92abc0a9bcb4a5a8b4bde9da5898c1c2b5b5b4cbafa5eeb97a8db5dfc9bb9eb4aec0e2b7
    8a9eb6d2c2b3b1b2bbbfbbcfa490aaf5c2bfb0cecd96adb9ccbdbcbbe9a6a5dcbb9d7dccf1
    d1c0aba7c4d3cbbcb9bcc0c79dbee9b4cdc3edce8ac4c4c1d2e88fcacab6dfc9a49ed3dfb9
    c4d3b0c1e0e3bab6c5c6ccd0c6c1dac9b69cc6fbf3caa2d6deaccccbc9bbcdddd8d1c1e6d0
    b4c7d8ccdbc7cbc9cdd8b0cef3d2d0d0f7eb97a8dbf7bbdde3edcec4e6d9c1c7d3e699f1f7
    d4d6d7ded6cdf6dcb2dceec3bed9f8d4d9e3dcdbdae8e0d2f4e1c6cce1efe8d7dddfe1e1f9
    f3b7bdeff8d9e0ebeae7def9e6d4e5e6e8dde8f5d0effbf6ece1edecebfbf8d1e6eef1f8f0
    ece7f3fbf2f3f3fcfae7f5f9fcfcfaf5fefefe
    """
)
"""Red, green and blue of each colour, 0..255; the darkest first."""


def fit_palette(pixels: Float32[np.ndarray, "n 3"], num_colors: int) -> UInt8[np.ndarray, "num_colors 3"]:
    """sRGB colours, 0..255, that together are near to those of the pixels; the darkest first.

    Args:
        pixels: sRGB, 0..1.
        num_colors: how many.
    """
    from sklearn.cluster import KMeans  # takes a while to import, and no run needs it

    some = np.random.default_rng(0).choice(pixels, min(len(pixels), PIXELS_PER_COLOR * num_colors), replace=False)
    found = KMeans(num_colors, max_iter=100, random_state=0).fit(some).cluster_centers_
    palette = np.rint(255 * found).clip(0, 255).astype(np.uint8)
    return palette[palette.astype(int).sum(1).argsort(kind="stable")]


def pixels_of(shards: str) -> Float32[np.ndarray, "n 3"]:
    """The pixels of the first images of a shard folder's first epoch."""
    from eyespot.data_pipeline.augment.views import CenterView, ViewSpec
    from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
    from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards

    views = ViewSpec(views=(CenterView(resize=SIDE, size=SIDE),), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    loader = make_loader(LoaderSpec(shards=find_shards(shards), views=views, batch_size=NUM_IMAGES))
    try:
        return next(loader).views[0].permute(0, 2, 3, 1).reshape(-1, 3).numpy()
    finally:
        loader.close()


if __name__ == "__main__":
    print(fit_palette(pixels_of(sys.argv[1]), NUM_COLORS).tobytes().hex("\n", -37))  # noqa: T201 - it is a command
