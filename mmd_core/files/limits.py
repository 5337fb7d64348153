"""What files may take: the limits of all formats, by what can be used of them.

They protect a server from files of strangers. Each is far above what a person needs.
"""

MEGABYTE, GIGABYTE = 2**20, 2**30

# Texts, in characters
NAME = 4096  # of a reference
CAPTION = 65_536
CAPTIONS = 2**26  # of all images in a folder

# Images
IMAGE_BYTES = GIGABYTE
IMAGE_PIXELS = 2 * 89_478_485  # Pillow's own limit, which other node packs disable
WEBP_PIXELS = 3 * 2**24  # 50 megapixels; its decoder takes 20 bytes for each
IMAGE_METADATA = 16 * MEGABYTE  # bytes of a color profile, or of what else a PNG says
IMAGE_PARTS = 2**17  # of a PNG (libpng makes one for each 8 kB), TIFF, JPEG or GIF
SNIFFED = 1000  # files in a folder with unknown endings at which is looked

# Files with captions
SIDECAR = MEGABYTE  # bytes of a file for one image
LIST = 64 * MEGABYTE  # bytes of a file for many images
LIST_VALUES = 500_000  # texts in a .json file, or in a line of a .jsonl file
LIST_LINES = 1_000_000
LIST_LINE = 2**20  # characters of a line of a .csv file
LIST_KEY = 32_768  # characters of the path of an image, as long as Windows allows

# Sets of references
SET = 1_000_000  # references
SET_HEADER = 100_000_000  # bytes with all texts; the limit of the .safetensors format
SET_ENTRIES = 10_000  # tensors and metadata entries; a LoRA, which is recognized, has hundreds

# Parts of a memory
PART_HEADER = 65_536  # bytes
PART_ENTRIES = 16  # tensors and metadata entries
PART = GIGABYTE // 2  # bytes of its tensors
PART_SAMPLES = 99_999
RECALLED = 4 * GIGABYTE  # bytes of all samples that are read at once

# LoRAs, of which only the metadata are read
LORA_HEADER = 8 * MEGABYTE  # bytes
LORA_ENTRIES = 20_000  # tensors and metadata entries
LORA_METADATA = MEGABYTE  # characters of our entry
LORA_VALUES = 10_000  # numbers and texts in it
LORA_NAME = 100  # characters of a sampler, a model and so on

# Disk space, in bytes
MEMORY_DISK = 16 * GIGABYTE  # of one memory
CACHE_DISK = 16 * GIGABYTE  # of the cache of encoded references, if the user sets no other limit
CACHE_ENTRY = GIGABYTE  # of one image in the cache
