# SPDX-License-Identifier: Apache-2.0
"""Residue types, molecule types, atoms of standard residues, and elements.

Sources: AF3 SI 2.6 and Tables 5 and 13; the atom names are the Chemical Component Dictionary's.
"""

from __future__ import annotations

from enum import IntEnum


class MoleculeType(IntEnum):
    """What a chain is made of. Ions, glycans and every other non-polymer are LIGAND."""

    PROTEIN = 0
    RNA = 1
    DNA = 2
    LIGAND = 3


AMINO_ACIDS = tuple(
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL".split()
)  # restype 0-19
RNA_NUCLEOTIDES = ["A", "G", "C", "U"]  # restype 21-24
DNA_NUCLEOTIDES = ["DA", "DG", "DC", "DT"]  # restype 26-29

RESTYPES: tuple[str, ...] = (*AMINO_ACIDS, "UNK", *RNA_NUCLEOTIDES, "N", *DNA_NUCLEOTIDES, "DN", "-")
N_RESTYPES = len(RESTYPES)  # 32
RESTYPE_INDEX = {name: index for index, name in enumerate(RESTYPES)}
GAP = RESTYPE_INDEX["-"]
UNKNOWN_RESTYPE = {
    MoleculeType.PROTEIN: RESTYPE_INDEX["UNK"],
    MoleculeType.RNA: RESTYPE_INDEX["N"],
    MoleculeType.DNA: RESTYPE_INDEX["DN"],
    MoleculeType.LIGAND: RESTYPE_INDEX["UNK"],
}

_ONE_LETTER = dict(zip("ARNDCQEGHILKMFPSTWYV", AMINO_ACIDS, strict=True))
MSA_LETTERS: dict[MoleculeType, dict[str, int]] = {
    MoleculeType.PROTEIN: {letter: RESTYPE_INDEX[name] for letter, name in _ONE_LETTER.items()}
    | {
        "B": RESTYPE_INDEX["ASP"],
        "Z": RESTYPE_INDEX["GLU"],
        "U": RESTYPE_INDEX["CYS"],
        **dict.fromkeys("JOX", RESTYPE_INDEX["UNK"]),
        "-": GAP,
    },
    MoleculeType.RNA: {letter: RESTYPE_INDEX[letter] for letter in "AGCU"}
    | {"T": RESTYPE_INDEX["U"], **dict.fromkeys("NRYSWKMBDHVX", RESTYPE_INDEX["N"]), "-": GAP},
    MoleculeType.DNA: {letter: RESTYPE_INDEX["D" + letter] for letter in "AGCT"}
    | {"U": RESTYPE_INDEX["DT"], **dict.fromkeys("NRYSWKMBDHVX", RESTYPE_INDEX["DN"]), "-": GAP},
}
"""Letter of an alignment column -> restype. AF3 SI 1.3: B is D, Z is E, U is C; J, O, X are unknown."""

ONE_LETTER = {name: letter for letter, name in _ONE_LETTER.items()} | {
    **{name: name for name in RNA_NUCLEOTIDES},
    **{name: name[1] for name in DNA_NUCLEOTIDES},
    "UNK": "X",
    "N": "N",
    "DN": "N",
    "-": "-",
}

_BACKBONE = "N CA C O"
_SUGAR_PHOSPHATE = "OP3 P OP1 OP2 O5' C5' C4' O4' C3' O3' C2'"
_SIDE_CHAINS = {
    "ALA": "CB",
    "ARG": "CB CG CD NE CZ NH1 NH2",
    "ASN": "CB CG OD1 ND2",
    "ASP": "CB CG OD1 OD2",
    "CYS": "CB SG",
    "GLN": "CB CG CD OE1 NE2",
    "GLU": "CB CG CD OE1 OE2",
    "GLY": "",
    "HIS": "CB CG ND1 CD2 CE1 NE2",
    "ILE": "CB CG1 CG2 CD1",
    "LEU": "CB CG CD1 CD2",
    "LYS": "CB CG CD CE NZ",
    "MET": "CB CG SD CE",
    "PHE": "CB CG CD1 CD2 CE1 CE2 CZ",
    "PRO": "CB CG CD",
    "SER": "CB OG",
    "THR": "CB OG1 CG2",
    "TRP": "CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2",
    "TYR": "CB CG CD1 CD2 CE1 CE2 CZ OH",
    "VAL": "CB CG1 CG2",
    "UNK": "",
}
_BASES = {
    "A": "N9 C8 N7 C5 C6 N6 N1 C2 N3 C4",
    "G": "N9 C8 N7 C5 C6 O6 N1 C2 N2 N3 C4",
    "C": "N1 C2 O2 N3 C4 N4 C5 C6",
    "U": "N1 C2 O2 N3 C4 O4 C5 C6",
    "N": "",
    "DT": "N1 C2 O2 N3 C4 O4 C5 C7 C6",
}

RESIDUE_ATOMS: dict[str, tuple[str, ...]] = {
    **{name: (*_BACKBONE.split(), *atoms.split()) for name, atoms in _SIDE_CHAINS.items()},
    **{
        name: (*_SUGAR_PHOSPHATE.split(), "O2'", "C1'", *_BASES[name].split())
        for name in (*RNA_NUCLEOTIDES, "N")
    },
    **{
        "D" + name: (*_SUGAR_PHOSPHATE.split(), "C1'", *_BASES.get("D" + name, _BASES.get(name, "")).split())
        for name in "AGCTN"
    },
}
"""Heavy atoms of each standard residue in the dictionary's order; the position is the atom's slot.

OP3 keeps slot 0 of nucleotides but is expected only at a 5' terminus; OXT (appended after the residue's own
atoms) only at a C terminus.
"""
MAX_ATOMS_PER_TOKEN = 24  # G with OP3

PURINES = frozenset({"A", "G", "DA", "DG"})
PYRIMIDINES = frozenset({"C", "U", "DC", "DT"})


def centre_atom(residue: str) -> str:
    """Token centre of a standard residue (AF3 SI 2.6): CA, or C1' in nucleotides."""
    return "CA" if "CA" in RESIDUE_ATOMS[residue] else "C1'"


def representative_atom(residue: str) -> str:
    """Pseudo-beta atom: CB (CA in GLY, UNK), C4 of purines, C2 of pyrimidines, C1' of unknown nucleotides."""
    if residue in PURINES:
        return "C4"
    if residue in PYRIMIDINES:
        return "C2"
    atoms = RESIDUE_ATOMS[residue]
    return "CB" if "CB" in atoms else centre_atom(residue)


def frame_atoms(residue: str) -> tuple[str, str, str]:
    """Atoms (a, b, c) of the residue's frame, b its origin: N, CA, C or C1', C3', C4'."""
    return ("N", "CA", "C") if "CA" in RESIDUE_ATOMS[residue] else ("C1'", "C3'", "C4'")


ELEMENTS: tuple[str, ...] = tuple(
    """
    X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
    Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb
    Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf
    Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
    """.split()
)
"""Element symbols by atomic number; index 0 is the unknown element."""
ATOMIC_NUMBER = {symbol.upper(): number for number, symbol in enumerate(ELEMENTS)} | {"D": 1}
N_ELEMENTS = 128  # width of the one-hot, AF3 SI Table 5
N_NAME_CHARS = 64  # characters 32..95, AF3 SI Table 5


def encode_atom_name(name: str) -> tuple[int, int, int, int]:
    """Four codes ord(c) - 32 in 0..63, right-padded with the space (0)."""
    padded = name.upper().ljust(4)[:4]
    codes = [min(max(ord(char) - 32, 0), N_NAME_CHARS - 1) for char in padded]
    return codes[0], codes[1], codes[2], codes[3]
